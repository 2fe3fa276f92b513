"""Prints documents and text to stdout, messages to stderr."""

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thothy_batch.errors import FailedDocument, ManifestError, ThothyError
from thothy_batch.report import escape_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_PROBLEMS = 50
_MAX_CHARS = 2000  # of one problem: a file may hold a key or a value of megabytes
# json.dumps escapes the first 32 control characters itself, with ensure_ascii=False no others.
_OBEYED_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InterruptError(ThothyError):
    """A signal while a command was at work, outside of a run."""

    exit_code = 4

    def __init__(self, command: str, signal_name: str) -> None:
        super().__init__(
            f"interrupted by {signal_name}: {f'thothy-batch {command}'.strip()} had not finished",
            hint="nothing is lost: run the same command again",
        )


def print_json(document: object, *, is_line: bool = False) -> None:
    """Prints the one JSON document of a command, indented or as a single line."""
    indent = None if is_line else 2
    text = json.dumps(document, indent=indent, ensure_ascii=False, default=str)
    print(_OBEYED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_blocks(blocks: "Sequence[RenderableType]") -> None:
    """Prints a command's text, laid out for the terminal's width, or for a pipe at a fixed one."""
    # Imported late, as everything that --help and --json do without.
    from rich.console import Console, Group

    from thothy_batch.report import to_text

    if sys.stdout.isatty():
        Console(file=sys.stdout, color_system=None).print(Group(*blocks), crop=False)
    else:
        print(to_text(blocks), end="")


def say(text: str) -> None:
    """Prints a line for the user to stderr, apart from the data."""
    print(escape_controls(text), file=sys.stderr, flush=True)


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Prints an error and returns its exit code. `as_json` also prints a document to stdout."""
    known = _as_thothy_error(error)
    prefix = "" if isinstance(known, InterruptError) else "error: "
    say(prefix + _shortened(known))
    if known.hint:
        say(f"hint: {known.hint}")
    if as_json:
        document: FailedDocument = {"error": known.as_json()}
        print_json(document)
    return known.exit_code


def _as_thothy_error(error: BaseException) -> ThothyError:
    if isinstance(error, KeyboardInterrupt):
        return InterruptError("", "SIGINT")
    return error if isinstance(error, ThothyError) else _unexpected(error)


def _unexpected(error: BaseException) -> ThothyError:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError):
        return ThothyError(text, hint="check that the file exists and that this user may use it")
    return ThothyError(
        f"unexpected: {text}", hint="run it again with THOTHY_DEBUG=1 for the full traceback"
    )


def _shortened(error: ThothyError) -> str:
    if not isinstance(error, ManifestError):
        return _cut(error.message)
    text = "\n".join(_cut(str(problem)) for problem in error.problems[:_MAX_PROBLEMS])
    num_more = len(error.problems) - _MAX_PROBLEMS
    return f"{text}\n... and {num_more} more problems" if num_more > 0 else text


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
