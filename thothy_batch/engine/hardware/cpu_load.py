"""The load of other programs on the cores of this process, by which a measurement is judged.

Time that a hypervisor gives to others counts as theirs.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
# Fields of a core's line: user, nice, system, idle, iowait, irq, softirq, steal.
_NUM_FIELDS, _IDLE = 8, (3, 4)
# Services of an idle machine take less; one busy program on 8 cores takes more.
_QUIET_BELOW = 0.1
_SAMPLE_S = 0.25  # 25 ticks of the kernel's clock on each core


def is_quiet(load: float | None) -> bool:
    """True for a load that leaves a measurement right, and where the load is not known."""
    return load is None or load < _QUIET_BELOW


@dataclass(frozen=True, slots=True)
class CPULoad:
    """The clocks of all cores at one moment, to be compared with those of a later one."""

    busy_s: float  # of the cores that this process may use, by anyone
    all_s: float
    own_s: float  # of this process, on any core

    @classmethod
    def now(cls) -> "CPULoad | None":
        """None where the system does not tell."""
        clocks = _core_clocks()
        if not clocks:
            return None
        tick = 1 / os.sysconf("SC_CLK_TCK")
        ticks, idle = sum(map(sum, clocks)), sum(clock[i] for clock in clocks for i in _IDLE)
        return cls((ticks - idle) * tick, ticks * tick, time.process_time())

    def share_of_others(self) -> float | None:
        """The share of the cores' time since then that others had, 0 .. 1; None: not known."""
        now = CPULoad.now()
        if now is None or now.all_s <= self.all_s:
            return None
        others_s = (now.busy_s - self.busy_s) - (now.own_s - self.own_s)
        return round(min(1.0, max(0.0, others_s / (now.all_s - self.all_s))), 3)


def present_load(sample_s: float = _SAMPLE_S) -> float | None:
    """The share of the cores' time that others have now; None: not known. Takes `sample_s`."""
    before = CPULoad.now()
    if before is None:
        return None
    time.sleep(sample_s)
    return before.share_of_others()


def _core_clocks() -> list[list[int]]:
    """The clocks of each core that this process may use, in ticks; empty: they are not told."""
    try:
        words = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = [each[1 : 1 + _NUM_FIELDS] for each in words if each and each[0] in usable]
        clocks = [[int(word) for word in line] for line in lines]
    except (OSError, ValueError, AttributeError):
        return []  # no Linux
    return clocks if all(len(clock) == _NUM_FIELDS for clock in clocks) else []
