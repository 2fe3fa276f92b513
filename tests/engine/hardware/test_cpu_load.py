"""The load of other programs, from a kernel's clocks that a test writes."""

import os
import time
from pathlib import Path

import pytest

from thothy_batch.engine.hardware import cpu_load
from thothy_batch.engine.hardware.cpu_load import CPULoad, is_quiet, present_load

TICKS = os.sysconf("SC_CLK_TCK")
FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")


class Machine:
    """Two cores of this process and one of others, and the time that this process computed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own_s = 0.0
        self.clocks = [[0] * 9 for _ in range(3)]

    def spend(self, core: int, **seconds: float) -> None:
        for name, value in seconds.items():
            self.clocks[core][FIELDS.index(name)] += round(value * TICKS)
        lines = [f"cpu{i} {' '.join(map(str, clock))}" for i, clock in enumerate(self.clocks)]
        self.path.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9", *lines, "intr 1 2", ""]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "stat")
    found.spend(0)
    monkeypatch.setattr(cpu_load, "_STAT", found.path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(time, "process_time", lambda: found.own_s)
    return found


def share_after(machine: Machine, *spent: dict[str, float], own_s: float = 0.0) -> float | None:
    before = CPULoad.now()
    assert before is not None
    for core, seconds in enumerate(spent):
        machine.spend(core, **seconds)
    machine.own_s += own_s
    return before.share_of_others()


def test_what_this_process_computes_is_no_load(machine: Machine) -> None:
    busy = {"user": 1.9, "system": 0.1}
    assert share_after(machine, busy, busy, own_s=4.0) == 0
    assert share_after(machine, {"idle": 2.0}, {"iowait": 2.0}) == 0


def test_other_programs_and_the_hypervisor_are_load(machine: Machine) -> None:
    assert share_after(machine, {"user": 1.0, "idle": 1.0}, {"idle": 2.0}) == 0.25
    assert share_after(machine, {"user": 2.0}, {"steal": 1.0, "idle": 1.0}, own_s=1.0) == 0.5
    # A guest's time is part of user already.
    assert share_after(machine, {"user": 1.0, "guest": 1.0, "idle": 1.0}, {"idle": 2.0}) == 0.25


def test_cores_that_this_process_may_not_use_do_not_matter(machine: Machine) -> None:
    assert share_after(machine, {"idle": 1.0}, {"idle": 1.0}, {"user": 50.0}) == 0


def test_the_load_is_unknown_where_the_system_does_not_tell(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert share_after(machine) is None  # clocks that stand still, as in some sandboxes
    for text in ("", "cpu0 1 2 x\n", "cpu0\n"):
        machine.path.write_text(text)
        before = CPULoad.now()
        assert before is None or before.share_of_others() is None
    monkeypatch.setattr(cpu_load, "_STAT", tmp_path / "none")
    assert CPULoad.now() is None
    assert present_load() is None


def test_a_machine_is_quiet_with_little_load_or_an_unknown_one() -> None:
    assert [is_quiet(load) for load in (None, 0.0, 0.05, 0.3, 1.0)] == [True] * 3 + [False] * 2
