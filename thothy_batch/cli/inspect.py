"""`status`, `report` and `export`: commands that read a store."""

from pathlib import Path
from typing import Annotated

import typer

from thothy_batch.cli.output import print_blocks, print_json, say

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="The store's DuckDB file.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunId = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="A run_id or a prefix of one."),
]
DEFAULT_STORE = Path("artifacts.duckdb")


def status(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show the run in progress, or how the last one ended."""
    from thothy_batch.cli.render_status import status_blocks
    from thothy_batch.runner.monitoring import read_store_state

    found = read_store_state(store)
    print_json(found) if as_json else print_blocks(status_blocks(found))


def report(
    store: StorePath = DEFAULT_STORE,
    run: RunId = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one self-contained HTML page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report on a run (default: the last): what was made, what failed and why, how fast."""
    from thothy_batch.report import report_blocks
    from thothy_batch.runner.commands import report_document, write_page

    document = report_document(store, run)
    if html is not None:
        write_page(document, html, store)
        say(f"wrote {html}")
    if as_json:
        print_json(document)
    elif html is None:
        print_blocks(report_blocks(document))


def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store's DuckDB file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Only this job.")] = None,
    run: RunId = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="parquet|jsonl|csv", help="Default: from the file extension."),
    ] = None,
) -> None:
    """Export finished artifacts to Parquet, JSONL or CSV.

    An existing file is replaced as a whole. In CSV a text that a spreadsheet would read as a
    formula (it begins with = + - @, a tab or a line break) gets a leading apostrophe; Parquet and
    JSONL hold every text unchanged.
    """
    from thothy_batch.runner.commands import export_artifacts

    count = export_artifacts(store, job=job, run=run, format=format, output=output)
    say(f"wrote {count:,} artifacts to {output}")
