"""Errors that reach a user: each says what happened, where, and what to do.

ThothyError
  ManifestError        exit 2  bad usage, manifest, kind file or input files; nothing was started
  ModelError           exit 2  the model cannot be used (missing files, unsupported architecture)
  LockedError          exit 3  another run holds the store or the device
  EngineError          exit 5  the engine failed
  StoreError           exit 5  the store or its journal failed
    StoreBusyError     exit 5  another program has the database file open right now
"""

import json
import re
from dataclasses import dataclass, field, replace
from typing import NotRequired, TypedDict

_PASSWORDS = (
    # scheme://user:password@host
    (
        re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE),
        r"\1***",
    ),
    # CREATE SECRET (... SECRET 'hidden')
    (re.compile(r"\b((?:\w*password|\w*secret)\s+)'(?:[^']|'')*'", re.IGNORECASE), r"\1'***'"),
    # password=..., api_key: "..."
    (
        re.compile(
            r"\b((?:\w*password|passwd|pwd|\w*secret|\w*token|\w*api_?key|\w*access_key|"
            r"account_key|sig|signature)[\"']?\s*(?:=>?|:)\s*)"
            r"(?:'(?:[^']|'')*'|\"[^\"]*\"|(?<=[=:])[^\s'\",;)&]+)",
            re.IGNORECASE,
        ),
        r"\1'***'",
    ),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_***"),
)


# Values of variables that a manifest took from secrets, in this process. Shorter ones would hide
# parts of ordinary words.
_SECRETS: set[str] = set()
_MIN_SECRET = 4


def hide_secret(value: str) -> None:
    """Keeps a value out of all messages and log lines of this process from now on, also as JSON and
    as Python quote it."""
    if len(value) >= _MIN_SECRET:
        quoted = json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)
        _SECRETS.update((value, *(text[1:-1] for text in quoted)))


def without_secrets(text: str) -> str:
    """Replaces the values that `hide_secret` was told of by `***`."""
    for value in sorted(_SECRETS, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def without_passwords(text: str) -> str:
    """Replaces what looks like a password or a token, and what is known as one, by `***`."""
    text = without_secrets(text)
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


class ProblemDocument(TypedDict):
    """A problem as `--json` shows it."""

    message: str
    path: str
    line: int | None
    hint: str


class ErrorDocument(TypedDict):
    """An error as `--json` shows it; a ManifestError lists its problems."""

    type: str
    message: str
    hint: str
    exit_code: int
    problems: NotRequired[list[ProblemDocument]]


class FailedDocument(TypedDict):
    """In place of any command's document: the error that ended the command."""

    error: ErrorDocument


class ThothyError(Exception):
    """Base of all errors meant for a user. `hint` says what to do next."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = without_passwords(message)
        super().__init__(message)
        self.message = message
        self.hint = without_passwords(hint)

    def as_json(self) -> ErrorDocument:
        """The error as `--json` shows it."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a file: its place, the fault itself, and what would be right."""

    message: str
    path: str = ""
    line: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = self.path + (f":{self.line}" if self.line is not None else "")
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class ManifestError(ThothyError):
    """Every problem of a manifest, kind file or input, collected before anything starts."""

    exit_code = 2

    def __init__(self, problems: "list[Problem] | str", *, hint: str = "") -> None:
        found = [Problem(problems)] if isinstance(problems, str) else problems
        self.problems = [
            replace(p, message=without_passwords(p.message), hint=without_passwords(p.hint))
            for p in found
        ]
        super().__init__("\n".join(str(p) for p in self.problems), hint=hint)

    def as_json(self) -> ErrorDocument:
        """Lists each problem by itself."""
        problems: list[ProblemDocument] = [
            {"message": p.message, "path": p.path, "line": p.line, "hint": p.hint}
            for p in self.problems
        ]
        return {**super().as_json(), "problems": problems}


class ModelError(ThothyError):
    """The model directory or its configuration cannot be used; nothing was started."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The holder of a lock, as it wrote itself into the lock file."""

    pid: int
    host: str = ""
    run_id: str = ""
    since: str = ""
    manifest: str = ""
    extra: dict[str, str] = field(default_factory=dict)


class LockedError(ThothyError):
    """Another run holds the store or the device."""

    exit_code = 3

    def __init__(self, message: str, *, holder: LockHolder | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class EngineError(ThothyError):
    """The engine process failed to start, crashed, or sent what no engine sends.

    `cause`: 'memory' if memory ran out, 'stalled' if no step finished in time, else ''.
    """

    exit_code = 5

    def __init__(self, message: str, *, hint: str = "", cause: str = "") -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class StoreError(ThothyError):
    """The store or its journal cannot be read or written."""

    exit_code = 5


class StoreBusyError(StoreError):
    """The database file is held by another program at this moment; trying again later helps."""
