"""Fault points: named places at which a test makes the program fail as machines do.

    THOTHY_FAULTS="journal.sync:3=kill,publish.commit=error,engine.step:20=delay:5"

The example kills the process at the third pass of the first point and raises an OSError at the
first pass of the second. Each fault fires once per process or, if THOTHY_FAULT_MARKS names a
folder, once over all processes that share it. Without the variable a point costs one lookup in an
empty dictionary.

    kill          SIGKILL
    error, full   OSError: EIO, ENOSPC
    delay:S       S seconds pass
    hold:FILE     FILE.held is created, and the process waits until FILE exists
    torn          half of the data is written, then SIGKILL; without data, like kill
"""

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ACTIONS: Final = ("kill", "error", "full", "delay", "hold", "torn")
_LOOK_S: Final = 0.005


@dataclass(slots=True)
class _Fault:
    place: str
    at_pass: int
    action: str
    argument: str = ""
    num_passed: int = 0


def _parse(text: str) -> dict[str, list[_Fault]]:
    armed: dict[str, list[_Fault]] = {}
    for part in filter(None, text.split(",")):
        where, _, what = part.partition("=")
        place, _, number = where.partition(":")
        action, _, argument = what.partition(":")
        if action not in _ACTIONS:
            raise ValueError(f"THOTHY_FAULTS: {part!r}: one of {', '.join(_ACTIONS)} is needed")
        fault = _Fault(place, int(number or 1), action, argument)
        armed.setdefault(place, []).append(fault)
    return armed


_armed = _parse(os.environ.get("THOTHY_FAULTS", ""))
_has_torn = False  # a write was torn: the process must not live to read it


def at(place: str) -> None:
    """Pass a fault point. An armed fault raises OSError, waits, or ends the process."""
    if not _armed:
        return
    if _has_torn:
        _kill()
    for fault in _armed.get(place, ()):
        if _is_due(fault):
            _strike(fault)


def cut(place: str, data: memoryview) -> memoryview:
    """Pass the fault point of a write; return the data to write.

    After a torn write the process ends at the next point that it passes."""
    global _has_torn
    if not _armed:
        return data
    if _has_torn:
        _kill()
    for fault in _armed.get(place, ()):
        if not _is_due(fault):
            continue
        if fault.action != "torn":
            _strike(fault)
        else:
            _has_torn = True
            return data[: len(data) // 2]
    return data


def _is_due(fault: _Fault) -> bool:
    fault.num_passed += 1
    return fault.num_passed == fault.at_pass and _is_first(fault)


def _is_first(fault: _Fault) -> bool:
    folder = os.environ.get("THOTHY_FAULT_MARKS")
    if not folder:
        return True
    name = f"{fault.place}-{fault.at_pass}-{fault.action}"
    with contextlib.suppress(FileExistsError):
        Path(folder, name).touch(exist_ok=False)
        return True
    return False


def _strike(fault: _Fault) -> None:
    if fault.action == "delay":
        time.sleep(float(fault.argument))
    elif fault.action == "hold":
        _hold(Path(fault.argument))
    elif fault.action in ("error", "full"):
        code = errno.EIO if fault.action == "error" else errno.ENOSPC
        raise OSError(code, f"{os.strerror(code)} (on purpose: {fault.place})")
    else:
        _kill()


def _hold(release: Path) -> None:
    release.with_name(release.name + ".held").touch()
    while not release.exists():
        time.sleep(_LOOK_S)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
