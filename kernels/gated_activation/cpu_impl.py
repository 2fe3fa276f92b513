"""gated in one pass, 16 elements at a time."""

import numpy as np
import torch

from thothy_kernels.gated_activation import GELU_CUBIC, GELU_LINEAR
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.exp import exp
from thothy_kernels.numba_simd.functions import inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17

_LINEAR, _CUBIC = np.float32(-GELU_LINEAR), np.float32(-GELU_CUBIC)


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    gate_up = gate_up.contiguous()
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((T, F))
    args = np.array((0, T, F, gate_up.data_ptr(), out.data_ptr()), dtype=np.int64)
    function = _WORKERS[activation, gate_up.dtype]
    thread_pool.launch(function, args, thread_pool.num_threads_for(T * F, _LEAST_PER_THREAD))
    return out


@inlined
def _gate(gate, up, is_gelu):  # type: ignore[no-untyped-def]
    factor = vec16.spread(np.float32(-1.0))
    if is_gelu:
        squares = vec16.multiply(gate, gate)
        factor = vec16.multiply_add(vec16.spread(_CUBIC), squares, vec16.spread(_LINEAR))
    below = vec16.add(vec16.spread(np.float32(1.0)), exp(vec16.multiply(gate, factor)))
    return vec16.multiply(vec16.divide(gate, below), up)


@inlined
def _gate_rows(args, gate_up, out, is_gelu):  # type: ignore[no-untyped-def]
    T, F = args[1], args[2]
    whole = F // 16 * 16
    rest = F - whole
    rows_at_once = max(1, 16384 // max(F, 1))
    while True:
        first = raw_memory.fetch_add(args, 0, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            gate, up, to = 2 * row * F, (2 * row + 1) * F, row * F
            for i in range(0, whole, 16):
                gate_part, up_part = vec16.load(gate_up, gate + i), vec16.load(gate_up, up + i)
                vec16.store(out, to + i, _gate(gate_part, up_part, is_gelu))
            if rest:
                gate_rest = vec16.load_first(gate_up, gate + whole, rest)
                up_rest = vec16.load_first(gate_up, up + whole, rest)
                vec16.store_first(out, to + whole, _gate(gate_rest, up_rest, is_gelu), rest)


@inlined
def _float32_rows(args, is_gelu):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    gate_up, out = raw_memory.float32_at(args[3], 2 * size), raw_memory.float32_at(args[4], size)
    _gate_rows(args, gate_up, out, is_gelu)


@inlined
def _bfloat16_rows(args, is_gelu):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    gate_up, out = raw_memory.bfloat16_at(args[3], 2 * size), raw_memory.bfloat16_at(args[4], size)
    _gate_rows(args, gate_up, out, is_gelu)


# A worker for each, not an argument read at run time: the choice then stands outside the loops.
@worker
def _float32_silu(args):  # type: ignore[no-untyped-def]
    _float32_rows(args, False)


@worker
def _bfloat16_silu(args):  # type: ignore[no-untyped-def]
    _bfloat16_rows(args, False)


@worker
def _float32_gelu_tanh(args):  # type: ignore[no-untyped-def]
    _float32_rows(args, True)


@worker
def _bfloat16_gelu_tanh(args):  # type: ignore[no-untyped-def]
    _bfloat16_rows(args, True)


_WORKERS = {
    ("silu", torch.float32): _float32_silu,
    ("silu", torch.bfloat16): _bfloat16_silu,
    ("gelu_tanh", torch.float32): _float32_gelu_tanh,
    ("gelu_tanh", torch.bfloat16): _bfloat16_gelu_tanh,
}
