"""`status`, `report` and `export`: what looks at a store."""

from pathlib import Path
from typing import Annotated

import typer

from thothy_batch.cli.output import print_json, print_text, say

StorePath = Annotated[Path, typer.Argument(metavar="[STORE]", help="The store's DuckDB file.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunId = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="A run_id or its beginning.")
]
DEFAULT_STORE = Path("artifacts.duckdb")


def status(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """What runs now, or how the last run ended; works while a run is going on."""
    from thothy_batch.cli.render_run import status_text
    from thothy_batch.runner.monitoring.store_state import store_state

    found = store_state(store)
    print_json(found) if as_json else print_text(status_text(found))


def report(
    store: StorePath = DEFAULT_STORE,
    run: RunId = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The morning report."""
    from thothy_batch.report.text import render_text
    from thothy_batch.runner.commands.report import report_document, write_page

    data = report_document(store, run)
    if html is not None:
        write_page(data, html, store)
        say(f"wrote {html}")
    if as_json:
        print_json(data)
    elif html is None:
        print_text(render_text(data))


def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store's DuckDB file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to.")],
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Only this job.")] = None,
    run: RunId = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="parquet|jsonl|csv", help="Left out: by the file's ending."),
    ] = None,
) -> None:
    """Finished artifacts to Parquet, JSONL or CSV.

    An existing file is replaced as a whole. In CSV a text that a spreadsheet would take for a
    formula (it begins with = + - @, a tab or a line's end) gets an apostrophe in front; Parquet
    and JSONL hold every text as it is.
    """
    from thothy_batch.runner.commands.report import export_artifacts

    count = export_artifacts(store, job=job, run=run, format=format, output=output)
    say(f"wrote {count:,} artifacts to {output}")
