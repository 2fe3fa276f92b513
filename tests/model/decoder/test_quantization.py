"""model.quantization int8: what is packed, what it saves, and what it does to logits."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rounding_oracle import Rounding, logits_of

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


@pytest.mark.few(6)
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


@pytest.mark.rest
def test_plain_weights_are_freed_when_a_decoder_is_packed(make_checkpoint: Make) -> None:
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


def _steps_of(x: torch.Tensor) -> torch.Tensor:
    """Rows of float64 in 255 even steps, as the definition of 8 bits has it."""
    step = x.abs().amax(-1, keepdim=True) / 127
    return torch.where(step > 0, (x / step).round() * step, 0.0)


class _InSteps(torch.nn.Module):
    """A linear whose weights and inputs are in steps."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self._weight, self._bias = _steps_of(plain.weight.data), plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(_steps_of(x), self._weight, self._bias)


def _in_steps(model: Any) -> Any:
    quantized = copy.deepcopy(model)
    for module in list(quantized.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _InSteps(child))
    return quantized


IDS = torch.randint(96, (40,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(scope="module")
def expected_error(make_checkpoint: Make) -> Callable[..., tuple[torch.Tensor, float]]:
    """Logits of transformers in float64, and the root mean square by which 8 bits miss them. An
    entry that a rounding takes to the other neighbour takes others with it, so that several such
    models are drawn."""
    known: dict[object, tuple[torch.Tensor, float]] = {}

    def compute(variant: str, dtype: str) -> tuple[torch.Tensor, float]:
        if (variant, dtype) not in known:
            form = getattr(torch, dtype)
            plain = copy.deepcopy(make_checkpoint(variant)[1]).to(form).double()
            plain.set_attn_implementation("eager")
            quantized, exact = _in_steps(plain), logits_of(plain, IDS, Rounding())
            drawn = [logits_of(quantized, IDS, Rounding(form, seed)) for seed in range(4)]
            error = torch.stack(drawn) - exact
            known[variant, dtype] = exact, float(error.square().mean().sqrt())
        return known[variant, dtype]

    return compute


@pytest.mark.few(2)
@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_as_near_to_the_plain_model_as_steps_of_8_bits_let_them(
    variant: str, dtype: str, impl: str, make_checkpoint: Make, feeder: Any, expected_error: Any
) -> None:
    """A mean square spreads like that of 75 numbers at least (by 16 draws of five variants: 87 and
    more): by chance it is beyond 2.9 times its mean with 3e-14, below a quarter with 4e-11."""
    exact, expected = expected_error(variant, dtype)
    model = _load(make_checkpoint(variant)[0], impl, "int8", dtype)
    assert model.quantization == "int8"
    logits = feeder(model, impl=impl).logits(IDS)
    assert logits.dtype == torch.float32
    assert 0.25 < float((logits - exact).square().mean()) / expected**2 < 2.9


@pytest.mark.few(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linears_of_cpu_and_reference_give_the_same_bits_in_a_model(
    variant: str, dtype: str, make_checkpoint: Make, feeder: Any
) -> None:
    """Inputs in between differ in bits, so each implementation gets those of the reference."""
    directory = make_checkpoint(variant)[0]
    reference, fast = (_load(directory, impl, "int8", dtype) for impl in ("reference", "cpu"))
    seen = _record_linears(reference.decoder)
    feeder(reference).logits(IDS)
    assert len(seen) == 4 * reference.config.num_layers + 1
    for number, name, x, y in seen:
        owner = fast.decoder if number is None else fast.decoder._layers[number]
        assert torch.equal(getattr(owner, name)(x), y)


Seen = list[tuple[int | None, str, torch.Tensor, torch.Tensor]]


def _record_linears(decoder: Any) -> Seen:
    """From now on every linear adds its layer (None: the head), name, input and output."""
    seen: Seen = []

    def record(owner: Any, number: int | None, name: str) -> None:
        multiply = getattr(owner, name)

        def recorded(x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = multiply(x)
            # Norms of queries and keys write into the output.
            seen.append((number, name, x, y.clone()))
            return y

        setattr(owner, name, recorded)

    record(decoder, None, "_head")
    for number, layer in enumerate(decoder._layers):
        for name in ("_qkv", "_o", "_gate_up", "_down"):
            record(layer, number, name)
    return seen


def test_logits_of_a_row_do_not_depend_on_its_company(make_checkpoint: Make, feeder: Any) -> None:
    model = _load(make_checkpoint("qwen3")[0], "cpu", "int8")
    prompts = [list(range(seed, seed + length)) for seed, length in ((0, 9), (5, 30), (40, 17))]
    feed = feeder(model, impl="cpu")
    together = feed.step([(ids, 0, feed.table(len(ids))) for ids in prompts], rows="last")
    for ids, logits in zip(prompts, together, strict=True):
        assert torch.equal(feeder(model, impl="cpu").logits(ids)[-1], logits)
