"""Documents to stdout, messages to stderr."""

import json
import re
import sys

from thothy_batch.errors import ManifestError, ThothyError

_MAX_PROBLEMS = 50
_MAX_CHARS = 2000  # of one problem: a file may hold a key or a value of megabytes
# What a terminal obeys in place of showing it: control characters, and those that turn the
# direction of writing. A JSON document has the first 32 escaped already.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_OBEYED_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InterruptError(ThothyError):
    """A signal while a command was at work, and before a run had begun."""

    exit_code = 4

    def __init__(self, command: str, signal_name: str) -> None:
        super().__init__(
            f"interrupted by {signal_name}: {f'thothy-batch {command}'.strip()} had not finished",
            hint="nothing is lost: give the same command again",
        )


def shown(text: str) -> str:
    """Text of somebody else's as a terminal may have it: escapes are spelt out, lines stay."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)


def print_json(document: object) -> None:
    """The one JSON document of a command."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    print(_OBEYED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_text(text: str) -> None:
    """What a command prints for people: whole lines, in which names and texts may stand."""
    print(shown(text), end="")


def say(text: str) -> None:
    """A line for the user, beside the data."""
    print(shown(text), file=sys.stderr, flush=True)


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Shows an error and gives its exit code. With `as_json` stdout gets a document, too."""
    known = _known(error)
    prefix = "" if isinstance(known, InterruptError) else "error: "
    say(prefix + _shortened(known))
    if known.hint:
        say(f"hint: {known.hint}")
    if as_json:
        print_json({"error": known.as_json()})
    return known.exit_code


def _known(error: BaseException) -> ThothyError:
    if isinstance(error, KeyboardInterrupt):
        return InterruptError("", "SIGINT")
    return error if isinstance(error, ThothyError) else _unexpected(error)


def _unexpected(error: BaseException) -> ThothyError:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError):
        return ThothyError(text, hint="see that the file exists and that this user may use it")
    return ThothyError(
        f"unexpected: {text}", hint="run it again with THOTHY_DEBUG=1 for the whole trace"
    )


def _shortened(error: ThothyError) -> str:
    if not isinstance(error, ManifestError):
        return _cut(error.message)
    shown = "\n".join(_cut(str(problem)) for problem in error.problems[:_MAX_PROBLEMS])
    num_more = len(error.problems) - _MAX_PROBLEMS
    return f"{shown}\n... and {num_more} more problems" if num_more > 0 else shown


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
