"""The program: its commands, and the one place that turns errors into messages and exit codes."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, NoReturn

import typer

from thothy_batch import __version__
from thothy_batch.cli import signals
from thothy_batch.cli.bench import bench
from thothy_batch.cli.inspect import export, report, status
from thothy_batch.cli.output import InterruptError, report_error, say
from thothy_batch.cli.run import plan, run
from thothy_batch.cli.setup import doctor, init
from thothy_batch.cli.streams import open_streams
from thothy_batch.errors import ManifestError
from thothy_batch.logs import configure_logging
from thothy_batch.report import escape_controls

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Log what is done to stderr; THOTHY_LOG=debug: more."),
]
_log = logging.getLogger(__name__)


def _with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option --verbose, which all of them have."""

    @wraps(command)
    def with_verbose(*args: object, verbose: bool = False, **options: object) -> None:
        if verbose:
            configure_logging(verbose=True, clean=escape_controls)
        command(*args, **options)

    signature = inspect.signature(command)
    option = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose
    )
    parameters = [*signature.parameters.values(), option]
    with_verbose.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_verbose


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command: Ctrl-C becomes an InterruptError. Typer would print no message and no
    document."""

    @wraps(command)
    def interruptible(*args: object, **options: object) -> None:
        try:
            with signals.raising():
                command(*args, **options)
        except typer.Exit:
            raise
        except (KeyboardInterrupt, Exception) as error:
            # Some libraries turn an interrupt into an error of their own: DuckDB a RuntimeError.
            if not isinstance(error, KeyboardInterrupt) and not signals.received():
                raise
            raise InterruptError(command.__name__, signals.received() or "SIGINT") from error

    return interruptible


app = typer.Typer(
    name="thothy-batch",
    help="Offline LLM batch runner: job manifests in, finished artifacts and statistics in DuckDB.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (run, plan, status, report, export, bench, doctor, init):
    app.command()(_with_verbose(_interruptible(command)))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thothy-batch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its exit code.

    `args` None: those of the process, whose signals are then handled too.
    """
    if args is None:
        signals.install()
    words = sys.argv[1:] if args is None else args
    refused = open_streams()
    try:
        configure_logging(clean=escape_controls)
        _check_folder()
        app(words)
        code = 0
    except SystemExit as end:  # how typer ends
        code = end.code if isinstance(end.code, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("THOTHY_DEBUG") == "1":
            raise
        _log.debug("this ended the command", exc_info=error)
        code = report_error(error, as_json="--json" in words)
    code = _flush_stdout(code, refused)
    if signals.received():
        signals.show_cursor()
    signals.ignore_all()
    sys.exit(code)


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ManifestError(
            f"the current folder cannot be used: {error.strerror}",
            hint="it may have been deleted; cd to a folder that exists and start again",
        ) from error


def _flush_stdout(code: int, refused: list[OSError]) -> int:
    """Writes what is left for stdout. Returns the exit code; not 0 if stdout failed."""
    sys.stdout.flush()
    if not refused:
        return code
    say(f"error: cannot write to stdout: {refused[0].strerror}")
    say("hint: free some space; the artifacts of a run are in the store: thothy-batch report")
    return code or 5
