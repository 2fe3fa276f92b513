"""Runs a command and watches how much memory it and its children hold."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

SAMPLE_EVERY_S = 0.2
MEMORY_IS = f"sum of RSS of the process and its children, sampled every {SAMPLE_EVERY_S} s"


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended; `code` is None where it was killed after its time."""

    code: int | None
    output: str
    errors: str
    peak_bytes: int
    wall_s: float  # the whole process


def run_watched(
    command: Sequence[str], environment: Mapping[str, str], timeout_s: float | None = None
) -> Ran:
    """Runs a command to its end; all that it started ends with it."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # A session of its own, so that whatever it starts can be ended too.
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, env=environment, start_new_session=True
        )
        try:
            code, peak = _watch(process, None if timeout_s is None else began + timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wall_s = time.monotonic() - began
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Ran(code, *texts, peak, wall_s)


def _watch(process: "subprocess.Popen[bytes]", end: float | None) -> tuple[int | None, int]:
    """Exit code and peak; None at `end`, on the monotonic clock, if it still runs then."""
    peak = 0
    while end is None or time.monotonic() < end:
        peak = max(peak, resident_bytes(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(SAMPLE_EVERY_S), peak
    return None, peak


def resident_bytes(pid: int) -> int:
    """Bytes of a process and its descendants; 0 if it has ended. Shared pages count for each."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += each.memory_info().rss
    return total
