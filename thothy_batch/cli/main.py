"""The program: its commands, and the one place where errors become messages and exit codes."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from thothy_batch import __version__
from thothy_batch.cli.look import export, report, status
from thothy_batch.cli.machine import doctor, init
from thothy_batch.cli.night import plan, run
from thothy_batch.cli.output import report_error

app = typer.Typer(
    name="thothy-batch",
    help="Offline LLM batch runner: job manifests in, finished artifacts and statistics in DuckDB.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (run, plan, status, report, export, doctor, init):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thothy-batch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with the contract's exit code."""
    words = sys.argv[1:] if args is None else args
    for stream in (sys.stdout, sys.stderr):
        # A log in an old locale must not end the night over one character.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(words)
        code = 0
    except BrokenPipeError:
        # Whoever read our output has seen enough (`report | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("THOTHY_DEBUG") == "1":
            raise
        code = report_error(error, as_json="--json" in words)
    sys.exit(code)
