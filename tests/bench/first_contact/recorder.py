"""Records checks as they run: a line for the reader on stdout, one of JSON in the section's log."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

Check = tuple[str, Callable[[], object]]
_TEXT = 600  # characters kept of an error


class Recorder:
    """A check is logged before it starts, too: after a crash the log names the check it was in."""

    def __init__(self, section: str, log: Path) -> None:
        self._section, self._log = section, log
        self.has_failed = False

    def run(self, name: str, call: Callable[[], object]) -> None:
        self._write({"check": f"{self._section}.{name}"})
        began = time.monotonic()
        try:
            seen = call()
            synchronize()  # an illegal access shows only here
        except Exception as error:
            self.fail(name, error, time.monotonic() - began)
        else:
            self._end(name, "PASS", time.monotonic() - began, "" if seen is None else seen)

    def fail(self, name: str, error: Exception | str, seconds: float = 0.0) -> None:
        self.has_failed = True
        self._end(name, "FAIL", seconds, error if isinstance(error, str) else text_of(error))

    def _end(self, name: str, outcome: str, seconds: float, seen: object) -> None:
        check = f"{self._section}.{name}"
        result = {"check": check, "outcome": outcome, "seconds": round(seconds, 3), "seen": seen}
        self._write(result)
        # Sections share stdout: print would write the end of the line by itself.
        sys.stdout.write(line_of(result) + "\n")
        sys.stdout.flush()

    def _write(self, line: dict[str, object]) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def line_of(result: dict[str, object]) -> str:
    seen = result["seen"]
    text = seen if isinstance(seen, str) else json.dumps(seen)
    return f"{result['outcome']} {result['check']} {result['seconds']:.1f}s {text}".rstrip()


def text_of(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:_TEXT]
    return f"{type(error).__name__}: {text} [{Path(where.filename).name}:{where.lineno}]"


def synchronize() -> None:
    """Wait for the device; sections without torch have none to wait for."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def is_device_usable() -> bool:
    """False after an error that CUDA keeps: every later call of the process fails with it."""
    try:
        synchronize()
    except RuntimeError:
        return False
    return True
