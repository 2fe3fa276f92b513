"""model.quantization int8: what is packed, what it saves, and what it does to logits."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.errors import ModelError
from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.decoder import Decoder
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.model.quantization import check_quantization, saved_bytes
from thothy_batch.model.weight_source import random_weights
from thothy_batch.records import ModelSpec

Make = Callable[..., tuple[Path, Any]]
INT8 = ModelSpec(quantization="int8")


@pytest.mark.parametrize("quantization", ["fp8", "int3", ""])
def test_what_does_not_exist_is_refused_by_name(quantization: str) -> None:
    with pytest.raises(ModelError, match=f"'{quantization}' does not exist yet") as caught:
        check_quantization(ModelSpec(quantization=quantization), device="cpu")
    assert caught.value.hint == "supported: none, int8"


def test_int8_is_refused_on_a_gpu_and_without_kernels() -> None:
    check_quantization(ModelSpec(), device="cuda", impl="triton")
    for impl in ("auto", "cpu", "reference"):
        check_quantization(INT8, device="cpu", impl=impl)
    with pytest.raises(ModelError, match="int8 is computed on the CPU alone") as caught:
        check_quantization(INT8, device="cuda")
    assert "engine.device to cpu" in caught.value.hint
    for impl in ("triton", "flex"):
        with pytest.raises(ModelError, match=f"no kernels of engine.impl {impl}"):
            check_quantization(INT8, device="cpu", impl=impl)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_bytes_are_those_of_the_linears(
    variant: str, dtype: str, make_checkpoint: Make
) -> None:
    config = load_config(make_checkpoint(variant)[0])
    weights = random_weights(config, dtype, 0)
    head = weights.embedding if weights.head is None else weights.head

    def saved(*linears: torch.Tensor) -> int:
        return sum(w.nbytes - w.numel() - 8 * w.shape[0] for w in linears)

    body = sum(saved(each.qkv, each.o, each.gate_up, each.down) for each in weights.layers)
    assert saved_bytes(config, dtype, "int8") == (body, saved(head))
    assert saved_bytes(config, dtype, "none") == (0, 0)


def test_plain_weights_are_gone_when_a_decoder_is_packed(make_checkpoint: Make) -> None:
    config = load_config(make_checkpoint("llama")[0])
    weights = random_weights(config, "bfloat16", 0)
    plain = [weakref.ref(layer.down) for layer in weights.layers]
    decoder = Decoder(config, weights, "cpu", quantization="int8")
    gc.collect()
    assert decoder.impl == "cpu"
    assert [each() for each in plain] == [None] * config.num_layers


def _load(directory: Path, impl: str, quantization: str, dtype: str = "float32") -> LoadedModel:
    spec = ModelSpec(id=str(directory), dtype=dtype, quantization=quantization)
    return load_decoder(spec, device="cpu", impl=impl)


def _logits(feeder: Any, directory: Path, impl: str, quantization: str, dtype: str) -> torch.Tensor:
    model = _load(directory, impl, quantization, dtype)
    assert model.quantization == quantization
    ids = torch.randint(96, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    logits: torch.Tensor = feeder(model, impl=impl).logits(ids)
    assert logits.dtype == torch.float32
    return logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_near_those_of_the_plain_model(
    variant: str, dtype: str, make_checkpoint: Make, feeder: Any
) -> None:
    """A linear's rounding to 8 bits costs about a hundredth; these models are random, so nothing
    in them makes up for it. 0.020 to 0.050 were seen over all variants."""
    directory = make_checkpoint(variant)[0]
    plain = _logits(feeder, directory, "cpu", "none", dtype)
    quantized = _logits(feeder, directory, "cpu", "int8", dtype)
    error = float((quantized - plain).norm() / plain.norm())
    assert 0.015 < error < 0.06


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cpu_and_reference_differ_by_far_less_than_a_step(
    variant: str, dtype: str, make_checkpoint: Make, feeder: Any
) -> None:
    """Their products have the same bits. What is between them has not, so that here and there an
    entry is rounded to the other neighbour: at most 0.0003 and 0.008 were seen."""
    directory = make_checkpoint(variant)[0]
    exact, fast = (_logits(feeder, directory, i, "int8", dtype) for i in ("reference", "cpu"))
    bound = {"float32": 0.001, "bfloat16": 0.012}[dtype]
    assert float((fast - exact).norm() / exact.norm()) < bound


def test_logits_of_a_row_do_not_depend_on_its_company(make_checkpoint: Make, feeder: Any) -> None:
    model = _load(make_checkpoint("qwen3")[0], "cpu", "int8")
    prompts = [list(range(seed, seed + length)) for seed, length in ((0, 9), (5, 30), (40, 17))]
    feed = feeder(model, impl="cpu")
    together = feed.step([(ids, 0, feed.table(len(ids))) for ids in prompts], rows="last")
    for ids, logits in zip(prompts, together, strict=True):
        assert torch.equal(feeder(model, impl="cpu").logits(ids)[-1], logits)
