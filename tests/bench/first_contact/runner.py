"""Runs sections in processes of their own and collects what they recorded.

Knows neither torch nor the device: whatever a section does to them, the others are run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from first_contact.recorder import line_of

# Sections of a phase run beside each other. env is alone since it compares two readings of free
# memory, far since it takes most of the memory, speed since others would slow it down.
PHASES = (("env",), ("ops", "attention", "graphs"), ("far",), ("speed",))
Result = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Running:
    name: str
    log: Path
    process: subprocess.Popen[bytes]
    began: float


def run_phases(
    phases: Sequence[Sequence[str]],
    *,
    limit_s: float,
    budget_s: float,
    package: str = "first_contact",
) -> list[Result]:
    """Run each section (a module of `package`) for at most `limit_s`, all within `budget_s`."""
    end = time.monotonic() + budget_s
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for phase in phases:
            deadline = min(time.monotonic() + limit_s, end)
            running = [_start(name, package, Path(folder)) for name in phase]
            try:
                for section in running:
                    results += _collect(section, deadline)
            finally:
                for section in running:
                    _kill(section)
    return results


def _start(name: str, package: str, folder: Path) -> _Running:
    log = folder / f"{name}.jsonl"
    log.touch()
    command = [sys.executable, "-m", "first_contact.section", name, f"{package}.{name}", str(log)]
    is_dry_run = os.environ.get("THOTHY_GPU_DRY_RUN") == "1"
    environment = os.environ | {"TRITON_INTERPRET": "1" if is_dry_run else "0"}
    # A group of its own: compilers that it started end with it.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    return _Running(name, log, process, time.monotonic())


def _collect(section: _Running, deadline: float) -> list[Result]:
    """Results of a section; checks that it left unfinished have failed."""
    try:
        code = section.process.wait(max(0.0, deadline - time.monotonic()))
        ending = _ending(code)
    except subprocess.TimeoutExpired:
        _kill(section)
        code, ending = 1, f"cut off after {time.monotonic() - section.began:.0f} s"
    lines = map(json.loads, section.log.read_text(encoding="utf-8").splitlines())
    by_check: dict[str, Result] = {line["check"]: line for line in lines}
    results = [line for line in by_check.values() if "outcome" in line]
    lost = [check for check, line in by_check.items() if "outcome" not in line]
    if not by_check or (code and not lost and all(r["outcome"] == "PASS" for r in results)):
        lost.append(f"{section.name}.process")
    for check in lost:
        results.append({"check": check, "outcome": "FAIL", "seconds": 0.0, "seen": ending})
        sys.stdout.write(line_of(results[-1]) + "\n")  # as the recorder does
        sys.stdout.flush()
    return results


def _ending(code: int) -> str:
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


def _kill(section: _Running) -> None:
    if section.process.poll() is None:
        os.killpg(section.process.pid, signal.SIGKILL)
        section.process.wait()
