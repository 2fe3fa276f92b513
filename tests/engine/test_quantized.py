"""Engines with model.quantization int8: the same tokens in any schedule, figures that are true."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.engine.calibration import device_limits
from thothy_batch.engine.cost.cost_model import ModelWork, StepSpeed, model_work
from thothy_batch.engine.cost.known_speed import lookup_speed
from thothy_batch.engine.cost.measurement_cache import (
    MeasurementCache,
    device_name,
    measured_now,
)
from thothy_batch.engine.cost.roofline import RooflineWork
from thothy_batch.engine.hardware import cpu_load
from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.engine.model_info import model_info
from thothy_batch.errors import ModelError
from thothy_batch.model.config.model_config import load_config
from thothy_batch.records import DeviceLimits, EngineSpec, ModelSpec, RequestResult
from thothy_kernels.linear_int8 import pack_linear_int8

EMBEDDED = Path(__file__).parents[2] / "sample_data" / "model"
INT8 = ModelSpec(id=str(EMBEDDED), quantization="int8")
FIGURES = {"float32": 1e11, "bfloat16": 2e11, "int8": 8e11}


def _spec(model: ModelSpec = INT8, **settings: Any) -> EngineSpec:
    return EngineSpec(**({"model": model, "device": "cpu", "num_blocks": 60} | settings))


def _tokens(results: list[RequestResult]) -> list[tuple[int, ...]]:
    return [completion.token_ids for result in results for completion in result.completions]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Words of the model's own, as many as a prompt of its tasks has."""
    return [[(seed * 37 + i * 11) % 1900 + 100 for i in range(12 + seed)] for seed in range(6)]


@pytest.mark.rest
def test_cpu_and_reference_make_the_same_tokens(
    prompts: list[list[int]], request_of: Callable[..., Any], run_all: Any
) -> None:
    requests = [request_of(i, ids, 16, ignore_eos=True) for i, ids in enumerate(prompts)]
    fast, exact = (_tokens(run_all(_spec(impl=i), requests)[0]) for i in ("cpu", "reference"))
    assert fast == exact


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "way", [{"max_seqs": 1}, {"max_step_tokens": 7}, {"block_size": 4, "prefix_sharing": False}]
)
def test_tokens_do_not_depend_on_the_schedule(
    way: dict[str, Any], prompts: list[list[int]], request_of: Callable[..., Any], run_all: Any
) -> None:
    """The dtype of so small a model is float32, in which attention has the same bits, too."""
    requests = [request_of(i, ids, 16, ignore_eos=True) for i, ids in enumerate(prompts)]
    together = _tokens(run_all(_spec(), requests)[0])
    assert _tokens(run_all(_spec(num_blocks=400, **way), requests)[0]) == together


def test_the_engine_says_what_it_runs() -> None:
    engine = InProcessEngine.start(_spec())
    assert (engine.info.model.dtype, engine.info.model.quantization) == ("float32", "int8")


def test_facts_are_of_the_quantised_model() -> None:
    plain, quantized = (model_info(_spec(model)) for model in (ModelSpec(id=INT8.id), INT8))
    assert plain.fingerprint != quantized.fingerprint
    assert (plain.quantization, quantized.quantization) == ("none", "int8")
    assert plain.work
    assert quantized.work
    assert 0.25 < quantized.work.weight_bytes / plain.work.weight_bytes < 0.28  # of float32
    with pytest.raises(ModelError, match="int8 has no kernels of engine.impl triton"):
        model_info(_spec(impl="triton"))


def _work(quantization: str) -> ModelWork:
    return model_work(load_config(EMBEDDED), "bfloat16", quantization)


def test_a_decode_step_reads_about_half_of_the_bytes() -> None:
    plain, quantized = _work("none"), _work("int8")
    assert quantized.body_bytes + quantized.head_bytes == quantized.weight_bytes
    assert 0.5 < quantized.weight_bytes / plain.weight_bytes < 0.53
    speeds = [StepSpeed.from_roofline(1e15, 1e9, work) for work in (plain, quantized)]
    reading = [speed.linears[0][1] + speed.head[0][1] for speed in speeds]
    assert reading[1] / reading[0] == pytest.approx(quantized.weight_bytes / plain.weight_bytes)


def test_products_are_charged_at_the_rate_of_bytes_and_attention_at_the_dtypes() -> None:
    total = RooflineWork(_work("int8"))
    total.add(500, [1])
    same, faster = total.seconds(1e9, 1e12), total.seconds(4e9, 1e12, attention_flops=1e9)
    pairs = 4 * (500 * 501 // 2)
    attention = _work("int8").pair_flops * pairs / 1e9
    assert faster == pytest.approx(attention + (same - attention) / 4, rel=0.01)
    speed = StepSpeed.from_roofline(4e9, 1e12, _work("int8"), attention_flops=1e9)
    assert speed.pair_s == _work("int8").pair_flops / 1e9


def test_limits_measured_before_int8_existed_are_measured_again_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, threads = MeasurementCache(tmp_path), 2
    monkeypatch.setattr(device_limits.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(device_limits, "_bandwidth", lambda budget_s: 2e9)
    monkeypatch.setattr(device_limits, "_flops", lambda dtype, budget_s: 3e9)
    monkeypatch.setattr(cpu_load, "_core_clocks", list)  # how busy the machine is, nobody knows
    old = {name: rate for name, rate in FIGURES.items() if name != "int8"}
    cache.store_device(DeviceLimits(device_name(), threads, old, 1e9, measured_now()))

    def predicted(quantization: str) -> object:
        work, dtype = _work(quantization), "bfloat16"
        return lookup_speed(work, threads=threads, impl="cpu", dtype=dtype, cache=cache)

    known = device_limits.load_or_measure_limits(cache)
    assert known is not None
    assert known.flops == old
    assert predicted("none")
    assert predicted("int8") is None
    measured = device_limits.load_or_measure_limits(cache, formats=("int8", "bfloat16"))
    assert measured is not None
    assert measured.flops == old | {"int8": 3e9}
    assert measured.bandwidth == 1e9
    assert cache.load_device(device_name(), threads) == measured
    assert predicted("int8")
    assert not caplog.records


def test_the_rate_of_bytes_is_measured_as_the_decoder_multiplies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[torch.Tensor] = []

    def pack(weight: torch.Tensor, bias: None, *, impl: str) -> Any:
        packed.append(weight)
        return pack_linear_int8(weight, bias, impl=impl)

    def half_a_second(work: Callable[[], torch.Tensor], budget_s: float) -> float:
        assert work().shape == (device_limits._LINEAR_ROWS, len(packed[-1]))
        return 0.5

    monkeypatch.setattr(device_limits, "pack_linear_int8", pack)
    monkeypatch.setattr(device_limits, "_least_time", half_a_second)
    rate = device_limits._flops(torch.int8, 0.1)
    assert {weight.dtype for weight in packed} == {torch.bfloat16}
    assert rate == max(2 * device_limits._LINEAR_ROWS * weight.numel() / 0.5 for weight in packed)
