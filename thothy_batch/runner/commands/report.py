"""Reads a store: the report's document, its HTML page, and exports."""

from pathlib import Path
from typing import cast

from thothy_batch.errors import ManifestError, StoreError
from thothy_batch.process import replace_file
from thothy_batch.report import ReportDocument, render_html
from thothy_batch.runner.monitoring.dead_run import publish_leftovers
from thothy_batch.store import journal_folder, real_path
from thothy_batch.store.database import wal_path
from thothy_batch.store.queries import FORMATS, format_of, report_data, write_export


def report_document(store: Path, run: str | None) -> ReportDocument:
    """The report of one run (None: the last). Publishes what a dead run left first."""
    publish_leftovers(store)
    return cast(ReportDocument, report_data(store, run))


def write_page(document: ReportDocument, path: Path, store: Path) -> None:
    """Writes the report as one HTML page, whole or not at all. Raises StoreError."""
    _refuse_store_files(store, path)
    page = render_html(document).encode()
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
    """Writes artifacts and returns their number. `format` None: from the output's extension."""
    chosen = format or format_of(output)
    if chosen not in FORMATS:
        what = f"--format {format}" if format else f"the name {str(output)!r}"
        raise ManifestError(f"{what} is not a known format", hint=f"--format {' | '.join(FORMATS)}")
    _refuse_store_files(store, output)
    publish_leftovers(store)
    return write_export(store, job=job, run=run, format=chosen, output=output)


def _refuse_store_files(store: Path, output: Path) -> None:
    """Raises ManifestError for an output that would replace the store it is made from."""
    kept, target = real_path(store), real_path(output)
    if target in (kept, wal_path(kept)) or target.is_relative_to(journal_folder(kept)):
        raise ManifestError(
            f"the output {output} is the store itself, or one of its files",
            hint="name another file",
        )
