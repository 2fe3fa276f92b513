"""What was made, read from the store: the report's data, its page, and exports."""

from pathlib import Path
from typing import Any

from thothy_batch.errors import ManifestError, StoreError
from thothy_batch.process.atomic_write import replace_file
from thothy_batch.report.html import render_html
from thothy_batch.store.database.database import wal_path
from thothy_batch.store.files import journal_folder, real_path
from thothy_batch.store.queries.export import FORMATS, export, format_of
from thothy_batch.store.queries.read import report_data
from thothy_batch.store.store import publish_if_free


def report_document(store: Path, run: str | None) -> dict[str, Any]:
    """The report of one run (None: the last). What a dead run left is published first."""
    publish_if_free(store)
    return report_data(store, run)


def write_page(data: dict[str, Any], path: Path, store: Path) -> None:
    """The report as one HTML page, whole or not at all. StoreError where it cannot be written."""
    _spare_store(store, path)
    page = render_html(data).encode()
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout
            path.write_bytes(page)
        else:
            replace_file(path, page, durable=False)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", hint="choose another file"
        ) from error


def export_artifacts(
    store: Path, *, job: str | None, run: str | None, format: str | None, output: Path
) -> int:
    """Writes artifacts; their number. `format` left out: by the ending of `output`."""
    chosen = format or format_of(output)
    if chosen not in FORMATS:
        what = f"--format {format}" if format else f"the name {str(output)!r}"
        raise ManifestError(
            f"{what} says no format that is known", hint=f"--format {' | '.join(FORMATS)}"
        )
    _spare_store(store, output)
    publish_if_free(store)
    return export(store, job=job, run=run, format=chosen, output=output)


def _spare_store(store: Path, output: Path) -> None:
    """Refuses an output that would replace what it is made from."""
    kept, target = real_path(store), real_path(output)
    if target in (kept, wal_path(kept)) or target.is_relative_to(journal_folder(kept)):
        raise ManifestError(
            f"the output {output} is the store itself, or one of its files",
            hint="name another file",
        )
