"""No operation makes the host wait for the device: the next step is planned meanwhile.

A dry run shows that the calls run, and nothing more: a CPU is never waited for. The whole decode
loop has a test in tests/engine/execution/test_on_gpu.py.
"""

from collections.abc import Callable

import pytest
import torch
from attention_oracle import Case
from device_place import DEVICE, IS_DRY_RUN, no_waiting, on_device
from step_oracle import NUM_SLOTS, V, inputs_of, simulation_of

from thothy_kernels.block_copy import copy_blocks
from thothy_kernels.gated_activation import gated
from thothy_kernels.linear import pack_linear
from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.rms_norm import add_rms_norm, rms_norm
from thothy_kernels.rope_and_write import rope_and_write_kv
from thothy_kernels.sample import (
    SamplingTensors,
    penalize_repetition,
    penalize_seen,
    sample,
)
from thothy_kernels.step_state import (
    StateTable,
    advance_inputs,
    clear_seen,
    mark_seen,
    record_tokens,
)

pytestmark = pytest.mark.gpu

# Two calls: the first may compile and set libraries up.
Calls = tuple[Callable[[], object], Callable[[], object]]


def _attention(grouped: bool) -> Calls:
    """The second call plans again, with metadata of its own, and after contexts grew."""
    lens = [(70, 1), (75, 1)] if grouped else [(70, 1), (40, 9)]
    case = Case(lens, shape=(4, 2, 16), shared=((0, 2, 0, 3),) if grouped else ())
    q, k, v = (t.to(DEVICE) for t in (case.q, case.k, case.v))
    metas = [on_device(case.meta(grouped=grouped)) for _ in range(2)]

    def call(number: int) -> None:
        meta = metas[number]
        paged_attention(q, k, v, meta, scale=case.scale, impl="triton")
        meta.contexts_grew()
        paged_attention(q, k, v, meta, scale=case.scale, impl="triton")

    return lambda: call(0), lambda: call(1)


def _norms() -> Calls:
    x, weight = _random(9, 64), _random(64)

    def call() -> None:
        rms_norm(x, weight, 1e-6, impl="triton")
        add_rms_norm(x, x, weight, 1e-6, impl="triton")

    return call, call


def _gate() -> Calls:
    x = _random(9, 64)
    return (lambda: gated(x, activation="silu", impl="triton"),) * 2


def _linear() -> Calls:
    packed, x = pack_linear(_random(48, 64), _random(48), impl="triton"), _random(9, 64)
    return (lambda: packed(x),) * 2


def _rope() -> Calls:
    qkv, norms, caches = _random(9, 8 * 16), _random(2, 16), _random(2, 4, 2, 8, 16)
    where, table = torch.arange(9, device=DEVICE), _random(40, 16)

    def call() -> None:
        tensors = (qkv, *norms, where, table, *caches, where)
        rope_and_write_kv(*tensors, num_heads=4, eps=1e-6, impl="triton")

    return call, call


def _copies() -> Calls:
    caches = _random(2, 6, 2, 8, 16)
    return (lambda: copy_blocks(*caches, [0, 1], [4, 5], impl="triton"),) * 2


def _draws() -> Calls:
    logits, rows = _random(6, 900), torch.arange(6, device=DEVICE)
    temperature = torch.linspace(0.0, 1.0, 6, device=DEVICE)
    top_k = (rows * 7 % 3).int()
    params = SamplingTensors(temperature, top_k, 1.0 - temperature / 3, rows, rows)

    def call() -> None:
        penalize_repetition(logits, rows, rows * 9, temperature + 1.0, impl="triton")
        sample(logits, params, impl="triton")

    return call, call


def _memory() -> Calls:
    table, slots = StateTable.allocate(NUM_SLOTS, V, DEVICE), torch.arange(6, device=DEVICE)
    logits, penalty = _random(6, V), torch.linspace(1.0, 2.0, 6, device=DEVICE)

    def call() -> None:
        clear_seen(table, slots)
        mark_seen(table, slots, slots * 9, impl="triton")
        record_tokens(table, slots, slots * 7, impl="triton")
        penalize_seen(logits, table.seen, slots, penalty, impl="triton")

    return call, call


def _next_inputs() -> Calls:
    """Two layer groups: the second has a launch of its own."""
    inputs = inputs_of(simulation_of(6, 2, seed=0), DEVICE)
    table, drawn = StateTable.allocate(NUM_SLOTS, V, DEVICE), torch.arange(6, device=DEVICE)
    ring, counter = drawn.new_zeros((3, 6)), drawn.new_zeros(1)

    def call() -> None:
        advance_inputs(inputs, table, drawn, ring, counter, block_size=4, impl="triton")

    return call, call


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE)


OPERATIONS: dict[str, Callable[[], Calls]] = {
    "attention": lambda: _attention(False),
    "attention of groups": lambda: _attention(True),
    "norms": _norms,
    "gate": _gate,
    "linear": _linear,
    "rope and write": _rope,
    "block copies": _copies,
    "penalties and draws": _draws,
    "what sequences remember": _memory,
    "inputs of the next step": _next_inputs,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_host_does_not_wait(operation: str) -> None:
    first, second = OPERATIONS[operation]()
    first()
    with no_waiting():
        second()


@pytest.mark.skipif(IS_DRY_RUN, reason="a CPU is never waited for")
def test_a_wait_would_be_noticed() -> None:
    value = torch.ones(1, device=DEVICE)
    for wait in (value.item, value.cpu, value.nonzero):
        with no_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
            wait()
