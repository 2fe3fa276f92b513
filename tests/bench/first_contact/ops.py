"""Element-wise operations, sampling and penalties at the sizes of real models."""

from collections.abc import Iterator

import torch
from device_place import DEVICE, sizes

from first_contact.place import HALF, seeded, within
from first_contact.recorder import Check
from thothy_kernels.gated_activation import gated
from thothy_kernels.rms_norm import add_rms_norm
from thothy_kernels.rope_and_write import rope_and_write_kv
from thothy_kernels.sample import SamplingTensors, penalize_repetition, penalize_seen, sample
from thothy_kernels.step_state import StateTable, mark_seen

_EPS = torch.finfo(HALF).eps
_EPS32 = torch.finfo(torch.float32).eps
# A race does not show each time.
_REPETITIONS = sizes([20], [1])[0]


def checks() -> Iterator[Check]:
    yield "norm", norm
    yield "gate", gate
    yield "rope_and_write", rope_and_write
    yield "sample", draws
    yield "penalties", penalties


def norm() -> str:
    T, N = sizes([(1000, 4096)], [(3, 64)])[0]
    generator = seeded()
    x, delta = (torch.randn((T, N), generator=generator).to(HALF) for _ in range(2))
    weight = torch.randn(N, generator=generator).to(HALF)
    arguments = (tensor.to(DEVICE) for tensor in (x, delta, weight))
    total, found = add_rms_norm(*arguments, 1e-6, impl="triton")
    assert torch.equal(total.cpu(), x + delta)
    wide = (x + delta).double()
    exact = wide / (wide.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight.double()
    # A sum of N squares, and two roundings to the dtype: before the weight and after it.
    bound = exact.abs() * ((N / 4 + 4) * _EPS32 + 1.02 * _EPS)
    return within(found, exact, bound)


def gate() -> str:
    x = torch.randn(sizes([(300, 28_672)], [(3, 128)])[0], generator=seeded()).to(HALF)
    found = gated(x.to(DEVICE), activation="silu", impl="triton")
    gates, ups = x.double().chunk(2, dim=1)
    exact = gates.sigmoid() * gates * ups
    # Exponential (two), sum, quotient, two products in float32; one rounding to the dtype.
    return within(found, exact, exact.abs() * (6 * _EPS32 + _EPS / 2))


def rope_and_write() -> str:
    T, H, K, D, P = sizes([(300, 32, 8, 128, 32)], [(3, 4, 2, 16, 8)])[0]
    generator = seeded()
    qkv = torch.randn((T, (H + 2 * K) * D), generator=generator).to(HALF)
    angles = torch.rand((T + 9, D // 2), generator=generator) * 6.28
    table = torch.cat((angles.cos(), angles.sin()), 1)
    caches = [torch.zeros((-(-T // P) + 2, K, P, D), dtype=HALF, device=DEVICE) for _ in range(2)]
    slots = torch.randperm(T, generator=generator)
    arguments = [tensor.to(DEVICE) for tensor in (torch.arange(T), table)]
    found = rope_and_write_kv(
        *(qkv.to(DEVICE), None, None, *arguments, *caches, slots.to(DEVICE)),
        **{"num_heads": H, "eps": 1e-6, "impl": "triton"},
    )
    q, k, v = qkv.double().view(T, -1, D).split((H, K, K), 1)
    stored = [cache.cpu().transpose(1, 2).reshape(-1, K, D)[slots] for cache in caches]
    assert torch.equal(stored[1].double(), v), "values are stored with other bits"
    seen = within(found, *_rotated(q, table[:T]))
    within(stored[0], *_rotated(k, table[:T]))
    return seen


def _rotated(x: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads in float64, and what two products, their sum and the dtype round off."""
    low, high = x.chunk(2, dim=-1)
    cos, sin = table.double()[:, None].chunk(2, dim=-1)
    exact = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    products = (low.abs() + high.abs()).repeat(1, 1, 2)
    return exact, exact.abs() * _EPS / 2 + 2 * _EPS32 * products


def draws() -> str:
    """Greedy rows, top-k, top-p and plain ones side by side draw the reference's tokens."""
    R, V = sizes([(64, 128_256)], [(6, 900)])[0]
    logits = torch.randn((R, V), generator=seeded()) * 4
    rows = torch.arange(R)
    temperature = torch.where(rows % 3 == 0, 0.0, 0.8)
    top_k = torch.where(rows % 3 == 2, 40, 0).int()
    top_p = torch.where(rows % 4 == 1, 0.9, 1.0)
    params = (temperature, top_k, top_p, rows * 77 - 5, rows * 3)
    wanted = sample(logits, SamplingTensors(*params), impl="reference")
    there = SamplingTensors(*(tensor.to(DEVICE) for tensor in params))
    for _ in range(_REPETITIONS):
        found = sample(logits.to(DEVICE), there, impl="triton").cpu()
        wrong = (found != wanted).nonzero().flatten().tolist()
        assert not wrong, f"rows {wrong} drew other tokens"
    return f"{R} rows of {V}, {_REPETITIONS} times"


def penalties() -> str:
    V = sizes([151_936], [900])[0]
    generator = seeded()
    table = StateTable.allocate(8, V, DEVICE)
    slots, tokens = torch.arange(8).repeat(50), torch.randint(V, (400,), generator=generator)
    mark_seen(table, slots.to(DEVICE), tokens.to(DEVICE), impl="triton")
    logits, penalty = torch.randn((8, V), generator=generator), torch.full((8,), 1.3)
    wanted, found, rows = logits.clone(), logits.to(DEVICE), torch.arange(8)
    penalize_repetition(wanted, slots, tokens, penalty[slots], impl="reference")
    penalize_seen(found, table.seen, rows.to(DEVICE), penalty.to(DEVICE), impl="triton")
    assert torch.equal(found.cpu(), wanted), "penalised logits have other bits"
    return f"{len(tokens)} tokens of 8 rows"
