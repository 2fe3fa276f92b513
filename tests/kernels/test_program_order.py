"""No program of a launch reads what another one writes: any order gives the same bits."""

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from attention_oracle import Case
from program_order import shuffled_programs

from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.rope_and_write import rope_and_write_kv
from thothy_kernels.sample import SamplingTensors, sample
from thothy_kernels.step_state import StateTable, mark_seen


@triton.jit
def _chain_kernel(out):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    tl.store(out + program + 1, tl.load(out + program) + 1)


def chained() -> torch.Tensor:
    out = torch.zeros(9, dtype=torch.int64)
    _chain_kernel[(8,)](out)
    return out


def attention(lens: list[tuple[int, int]], shared: tuple[tuple[int, int, int, int], ...] = ()):
    case = Case(lens, shared=shared)
    return paged_attention(
        case.q, case.k, case.v, case.meta(grouped=True), scale=case.scale, impl="triton"
    )


def decoded() -> torch.Tensor:
    return attention([(1, 1), (70, 1), (300, 1), (17, 1)])


def grouped() -> torch.Tensor:
    return attention([(90 + i, 1) for i in range(6)], ((0, 6, 0, 3), (1, 4, 3, 5)))


def prefilled() -> torch.Tensor:
    return attention([(40, 33), (5, 5), (60, 1)])


def written() -> torch.Tensor:
    T, H, K, D, P = 21, 4, 2, 16, 8
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn((T, (H + 2 * K) * D), generator=generator)
    k, v = (torch.zeros((4, K, P, D)) for _ in range(2))
    slots = torch.randperm(4 * P, generator=generator)[:T]
    table = torch.randn((T, D), generator=generator)
    arguments = (qkv, None, None, torch.arange(T), table, k, v, slots)
    q = rope_and_write_kv(*arguments, num_heads=H, eps=1e-6, impl="triton")
    return torch.cat((q.flatten(), k.flatten(), v.flatten()))


def drawn() -> torch.Tensor:
    rows = torch.arange(6)
    logits = torch.randn((6, 5000), generator=torch.Generator().manual_seed(0)) * 4
    temperature = torch.where(rows % 3 == 0, 0.0, 0.8)
    top_k, top_p = torch.where(rows % 3 == 2, 40, 0).int(), torch.where(rows % 2 == 1, 0.9, 1.0)
    return sample(logits, SamplingTensors(temperature, top_k, top_p, rows, rows), impl="triton")


def marked() -> torch.Tensor:
    table = StateTable.allocate(8, 900, "cpu")
    tokens = torch.randint(900, (400,), generator=torch.Generator().manual_seed(0))
    mark_seen(table, torch.arange(8).repeat(50), tokens, impl="triton")
    return table.seen


@pytest.mark.few(1)
@pytest.mark.parametrize("compute", [decoded, grouped, prefilled, written, drawn, marked])
def test_any_order_of_programs_gives_the_same_bits(compute: Callable[[], torch.Tensor]) -> None:
    in_order = compute()
    for seed in range(2):
        with shuffled_programs(seed):
            assert torch.equal(compute(), in_order)


def test_a_program_that_reads_what_another_writes_is_found() -> None:
    assert chained().tolist() == list(range(9))
    with shuffled_programs(0):
        assert chained().tolist() != list(range(9))
    assert chained().tolist() == list(range(9))
