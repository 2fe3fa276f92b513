"""Predictions: where the speed comes from, and parts that add up."""

from pathlib import Path
from typing import Any

import pytest

from thothy_batch.engine.cost.cost_model import GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.cost.known_speed import KnownSpeed, lookup_speed
from thothy_batch.engine.cost.measurement_cache import (
    MeasurementCache,
    SpeedKey,
    device_name,
)
from thothy_batch.engine.simulation.prediction import predict, request_costs
from thothy_batch.records import DeviceLimits, Request, Sampling

WORK = ModelWork(1_000_000, 200_000, 4, 4, 16, (GroupWork(3, None, 768),))
ROOFLINE = StepSpeed.from_roofline(1e11, 1e10, WORK)
KNOWN = KnownSpeed(ROOFLINE, "device", "")


def request(number: int, prompt_len: int, max_tokens: int, **more: Any) -> Request:
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    return Request(number, "", range(prompt_len), sampling, prefixes=(), **more)


def test_nothing_is_known_of_a_machine_that_was_never_measured(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path)
    assert lookup_speed(WORK, threads=2, impl="cpu", dtype="float32", cache=cache) is None


def test_a_calibrated_model_goes_before_the_devices_limits(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path)
    flops = {"float32": 1e11, "bfloat16": 2e11}
    cache.store_device(DeviceLimits(device_name(), 2, flops, 1e10, "2026-01-01T00:00:00+00:00"))
    found = lookup_speed(WORK, threads=2, impl="cpu", dtype="float32", cache=cache)
    assert found is not None
    assert found.source == "device"
    key = SpeedKey(device_name(), 2, "cpu", "float32", WORK)
    measured = StepSpeed(
        ((1, 0.5),), ((1, 0.1),), 1e-9, 1e-9, 1e-9, 1e-4, 1e-5, "2026-01-01T00:00:00"
    )
    cache.store_speed(key, measured)
    found = lookup_speed(WORK, threads=2, impl="cpu", dtype="float32", cache=cache)
    assert found is not None
    assert (found.source, found.speed.linears) == ("calibrated", ((1, 0.5),))
    # Other settings were not measured, and the reference comes nowhere near the device's limits.
    other = lookup_speed(WORK, threads=2, impl="cpu", dtype="bfloat16", cache=cache)
    assert other is not None
    assert other.source == "device"
    assert lookup_speed(WORK, threads=2, impl="reference", dtype="float32", cache=cache) is None


def test_the_parts_of_jobs_add_up_to_the_run(config_of: Any) -> None:
    requests = [request(i, 20 + i, 5 + i % 7, num_samples=1 + i % 3) for i in range(20)]
    jobs = {i: "ab"[i % 2] for i in range(20)}
    lengths = {r.request_id: r.sampling.max_tokens for r in requests}
    config = config_of(num_blocks=60, block_size=8, max_seqs=8, max_step_tokens=64)
    found = predict(config, WORK, KNOWN, requests, output_lens=lengths, jobs=jobs)
    assert found.simulated.num_requests == 20
    assert found.simulated.output_tokens == sum(
        lengths[r.request_id] * r.num_samples for r in requests
    )
    assert sum(part.engine_s for part in found.jobs.values()) == pytest.approx(found.seconds)
    assert max(part.finished_s for part in found.jobs.values()) == pytest.approx(found.seconds)


def test_a_run_of_more_work_is_predicted_to_take_longer(config_of: Any) -> None:
    config = config_of(num_blocks=60, block_size=8)

    def seconds(num: int, max_tokens: int) -> float:
        requests = [request(i, 30, max_tokens) for i in range(num)]
        lengths = dict.fromkeys(range(num), max_tokens)
        jobs = dict.fromkeys(range(num), "j")
        return predict(config, WORK, KNOWN, requests, output_lens=lengths, jobs=jobs).seconds

    assert seconds(4, 8) < seconds(8, 8) < seconds(8, 16)


def test_long_prompts_outputs_and_samples_cost_more() -> None:
    asked = [request(0, 10, 4), request(1, 40, 4), request(2, 10, 9), request(3, 10, 9)]
    asked[3] = request(3, 10, 9, num_samples=3)
    lengths = {r.request_id: r.sampling.max_tokens for r in asked}
    base, longer, wordier, several = request_costs(WORK, ROOFLINE, asked, lengths)
    assert 0 < base < longer
    assert base < wordier < several
