"""Sampling on the device draws the reference's tokens, at the vocabularies of real models."""

import pytest
import test_triton_impl as own
import torch
from device_place import sizes

from thothy_kernels.sample import penalize_repetition, sample

pytestmark = pytest.mark.gpu

# Llama 3, Qwen, Gemma.
SIZES = sizes([(48, 128_256), (48, 151_936), (16, 262_144), (500, 32_000)], [(6, 5000)])


def assert_same_tokens(logits: torch.Tensor, params: own.SamplingTensors) -> None:
    assert torch.equal(own._tokens(logits, params), sample(logits, params, impl="reference"))


@pytest.mark.parametrize("deviation", [3.0, 8.0])
@pytest.mark.parametrize("size", SIZES)
def test_mixed_batches_draw_the_references_tokens(size: tuple[int, int], deviation: float) -> None:
    """All sampling modes in one batch; half of the rows are rounded to bfloat16, with ties."""
    generator = own._seeded(size[1])
    logits = torch.randn(size, generator=generator) * deviation
    logits[::2] = logits[::2].bfloat16().float()
    assert_same_tokens(logits, own._mixed(size[0], generator))


@pytest.mark.parametrize("size", SIZES)
def test_temperature_zero_takes_the_lowest_id_among_the_highest(size: tuple[int, int]) -> None:
    logits = torch.randn(size, generator=own._seeded(1)).bfloat16().float()
    highest = logits.argmax(1)
    last = torch.full_like(highest, size[1] - 1)
    logits.scatter_(1, last[:, None], logits.amax(1, keepdim=True))
    assert_same_tokens(logits, own._params(size[0], 0.0))


@pytest.mark.parametrize("size", SIZES)
def test_penalties_are_the_references_bits(size: tuple[int, int]) -> None:
    generator = own._seeded(2)
    logits = torch.randn(size, generator=generator) * 10
    rows, tokens = (torch.randint(0, n, (50_000,), generator=generator) for n in size)
    penalty = (1 + torch.rand(size[0], generator=generator))[rows]
    expected = logits.clone()
    penalize_repetition(expected, rows, tokens, penalty, impl="reference")
    assert torch.equal(own._penalized(logits, rows, tokens, penalty), expected)
