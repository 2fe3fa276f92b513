"""Log lines on stderr, as THOTHY_LOG and `--verbose` ask for them.

Modules log to `logging.getLogger(__name__)`. A program sets this up once, where it begins: the
command line, and the engine in its own process. An import sets up nothing.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from thothy_batch.errors import ManifestError, without_passwords

VARIABLE = "THOTHY_LOG"
_OURS = ("thothy_batch", "thothy_kernels")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_JSON = "json"
_RUN_VARIABLE = "THOTHY_LOG_RUN"  # set by a run for its engine process
_run_id = ""


@dataclass(frozen=True, slots=True)
class LogSetting:
    """Which records are shown, and how."""

    level: int = logging.WARNING
    as_json: bool = False  # one object a line

    @classmethod
    def parse(cls, text: str) -> "LogSetting":
        """A value of THOTHY_LOG: a level, `json` (which means info), or both with a comma.

        Raises ManifestError (bad usage).
        """
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in (*_LEVELS, _JSON):
                raise ManifestError(
                    f"{VARIABLE} is {text!r}", hint=f"use {', '.join(_LEVELS)} or {_JSON}"
                )
        as_json = _JSON in words
        default = logging.INFO if as_json else logging.WARNING
        return cls(min((_LEVELS[w] for w in words if w != _JSON), default=default), as_json)

    def __str__(self) -> str:
        """The value of THOTHY_LOG that means this."""
        level = logging.getLevelName(self.level).lower()
        return f"{level},{_JSON}" if self.as_json else level


def configure_logging(*, verbose: bool = False, clean: Callable[[str], str] = str) -> None:
    """Shows records of this program on stderr from here on, and warnings of its libraries.

    `verbose`: at least those of level info. `clean` makes a line fit for a terminal. May be called
    again. Raises ManifestError for a THOTHY_LOG that means nothing.
    """
    global _run_id
    _run_id = os.environ.get(_RUN_VARIABLE, _run_id)
    setting = LogSetting.parse(os.environ.get(VARIABLE, ""))
    level = min(setting.level, logging.INFO) if verbose else setting.level
    handler = _StderrHandler(clean)
    handler.setFormatter(_JsonFormatter() if setting.as_json else _LineFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)


def child_environment() -> dict[str, str]:
    """The variables by which a child process logs as this one does; none if nothing is set up."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StderrHandler):
            as_json = isinstance(handler.formatter, _JsonFormatter)
            setting = str(LogSetting(logging.getLogger(_OURS[0]).level, as_json))
            return {VARIABLE: setting, **({_RUN_VARIABLE: _run_id} if _run_id else {})}
    return {}


def logged_run_id() -> str:
    """The run that records belong to; "": none."""
    return _run_id


@contextmanager
def logged_run(run_id: str) -> Iterator[None]:
    """Within, records say which run they belong to, also those of child processes."""
    global _run_id
    before, _run_id = _run_id, run_id
    try:
        yield
    finally:
        _run_id = before


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The messages of this program's warnings within, for a document that shows them."""
    found: list[str] = []
    handler = _ListHandler(found)
    logger = logging.getLogger(_OURS[0])
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self._clean(self.format(record)), file=sys.stderr, flush=True)
        except Exception:  # a full disk, or a formatting error: neither ends a run
            self.handleError(record)


class _ListHandler(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(without_passwords(record.getMessage()))


class _LineFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Date and time, and the run where there is one."""
        return f"{super().formatTime(record, datefmt)} {_run_id}".rstrip()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        line = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_passwords(record.getMessage()),
        }
        if _run_id:
            line["run_id"] = _run_id
        if record.exc_info:
            line["exception"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(line)
