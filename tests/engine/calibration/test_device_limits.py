"""Limits of a device: taken on a quiet machine, and never computed with where they were not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thothy_batch.engine.calibration import device_limits
from thothy_batch.engine.calibration.device_limits import load_or_measure_limits, measure_device
from thothy_batch.engine.cost.cost_model import StepSpeed, model_work
from thothy_batch.engine.cost.known_speed import lookup_speed
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, SpeedKey, device_name
from thothy_batch.model.config.model_config import load_config

WORK = model_work(load_config(Path(__file__).parents[3] / "sample_data" / "model"), "float32")
THREADS = torch.get_num_threads()
AT = "2026-01-01T00:00:00+00:00"


class Device:
    """A device of which a test says how busy it is before and while it is measured."""

    def __init__(self) -> None:
        self.now: float | None = 0.0
        self.meanwhile: float | None = 0.0
        self.rate = 4e9
        self.measured: list[str] = []

    def share_of_others(self) -> float | None:
        return self.meanwhile

    def flops(self, dtype: torch.dtype, budget_s: float) -> float:
        self.measured.append(str(dtype).removeprefix("torch."))
        return self.rate

    def bandwidth(self, budget_s: float) -> float:
        self.measured.append("bandwidth")
        return self.rate


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(device_limits, "present_load", lambda: found.now)
    monkeypatch.setattr(device_limits.CPULoad, "now", lambda: found)
    monkeypatch.setattr(device_limits, "_flops", found.flops)
    monkeypatch.setattr(device_limits, "_bandwidth", found.bandwidth)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> MeasurementCache:
    return MeasurementCache(tmp_path)


def known(cache: MeasurementCache) -> object:
    return lookup_speed(WORK, threads=THREADS, impl="cpu", dtype="float32", cache=cache)


def test_a_quiet_device_is_measured_once_for_what_is_needed(
    device: Device, cache: MeasurementCache
) -> None:
    phases: list[str] = []
    first = load_or_measure_limits(cache, formats=("float32", "float32"), phase=phases.append)
    assert first is not None
    assert device.measured == ["float32", "bandwidth"]
    assert load_or_measure_limits(cache, phase=phases.append) == first
    assert len(device.measured) == 2
    assert len(phases) == 1
    assert load_or_measure_limits(cache, formats=("int8", "float32")) is not None
    assert device.measured[2:] == ["int8"]
    assert known(cache)


def test_a_busy_device_is_not_measured(device: Device, cache: MeasurementCache) -> None:
    device.now = 0.6
    assert load_or_measure_limits(cache) is None
    assert not device.measured
    assert known(cache) is None
    device.now = 0.0
    assert load_or_measure_limits(cache) is not None


def test_limits_taken_while_others_computed_are_taken_again(
    device: Device, cache: MeasurementCache
) -> None:
    """They are kept with their load to be shown; no roofline and no prediction is made of them."""
    device.meanwhile, device.rate = 0.7, 1e9
    assert load_or_measure_limits(cache) is None
    kept = cache.load_device(device_name(), THREADS)
    assert kept is not None
    assert (kept.load, kept.flops) == (0.7, {"float32": 1e9})
    assert known(cache) is None
    device.meanwhile, device.rate = 0.02, 4e9
    again = load_or_measure_limits(cache)
    assert again is not None
    assert (again.load, again.flops) == (0.02, {"float32": 4e9})
    assert known(cache)


def test_a_busy_moment_does_not_replace_what_a_quiet_one_gave(
    device: Device, cache: MeasurementCache
) -> None:
    quiet = measure_device(cache)
    device.now = device.meanwhile = 0.9
    device.rate = 1e9
    busy = measure_device(cache)  # as doctor does, which shows it
    assert (busy.load, busy.bandwidth) == (0.9, 1e9)
    assert cache.load_device(device_name(), THREADS) == quiet
    assert load_or_measure_limits(cache) == quiet


def test_an_unknown_load_counts_as_a_quiet_machine(device: Device, cache: MeasurementCache) -> None:
    device.now = device.meanwhile = None
    assert load_or_measure_limits(cache) is not None
    assert known(cache)


def test_a_speed_measured_while_others_computed_predicts_nothing(cache: MeasurementCache) -> None:
    curve = ((1, 0.01),)
    quiet = StepSpeed(curve, curve, 1e-9, 1e-9, 1e-9, measured_at=AT, load=0.01)
    key = SpeedKey(device_name(), THREADS, "cpu", "float32", WORK)
    cache.store_speed(key, replace(quiet, load=0.8))
    assert known(cache) is None
    assert cache.quiet_speed(key) is None
    cache.store_speed(key, quiet)
    cache.store_speed(key, replace(quiet, load=0.8, step_s=1.0))
    assert cache.load_speed(key) == quiet
    assert known(cache)
