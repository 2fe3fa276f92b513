"""Documents to stdout, messages to stderr."""

import json
import sys

from thothy_batch.errors import ManifestError, ThothyError

_MAX_PROBLEMS = 50


def print_json(document: object) -> None:
    """The one JSON document of a command."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """A line for the user, beside the data."""
    print(text, file=sys.stderr, flush=True)


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Shows an error and gives its exit code. With `as_json` stdout gets a document, too."""
    if isinstance(error, KeyboardInterrupt):
        say("interrupted; nothing was started")
        return 4
    known = error if isinstance(error, ThothyError) else _unexpected(error)
    say(f"error: {_shortened(known)}")
    if known.hint:
        say(f"hint: {known.hint}")
    if as_json:
        print_json({"error": known.as_json()})
    return known.exit_code


def _unexpected(error: BaseException) -> ThothyError:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError):
        return ThothyError(text, hint="see that the file exists and that this user may use it")
    return ThothyError(
        f"unexpected: {text}", hint="run it again with THOTHY_DEBUG=1 for the whole trace"
    )


def _shortened(error: ThothyError) -> str:
    if not isinstance(error, ManifestError) or len(error.problems) <= _MAX_PROBLEMS:
        return error.message
    shown = "\n".join(str(problem) for problem in error.problems[:_MAX_PROBLEMS])
    return f"{shown}\n... and {len(error.problems) - _MAX_PROBLEMS} more problems"
