"""gated on the CPU: one pass, 16 elements at a time."""

from typing import NamedTuple

import numpy as np
import torch

from thothy_kernels.gated_activation import GELU_CUBIC, GELU_LINEAR
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.exp import exp
from thothy_kernels.numba_simd.functions import Compiled, inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17

_LINEAR, _CUBIC = np.float32(-GELU_LINEAR), np.float32(-GELU_CUBIC)


class _Arguments(NamedTuple):
    next_row: int  # counter shared by the threads
    T: int
    F: int  # elements of a gate
    gate_up: int  # address of [T, 2F]
    out: int  # address of [T, F]


_ARG = indices_of(_Arguments)


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    gate_up = gate_up.contiguous()
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((T, F))
    arguments = _Arguments(next_row=0, T=T, F=F, gate_up=gate_up.data_ptr(), out=out.data_ptr())
    function = _WORKERS[activation, gate_up.dtype]
    num_threads = thread_pool.num_threads_for(T * F, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)
    return out


@inlined
def _gate(gate, up, is_gelu):  # type: ignore[no-untyped-def]
    """act(gate) * up for one vector."""
    factor = vec16.broadcast(np.float32(-1.0))
    if is_gelu:
        squares = vec16.multiply(gate, gate)
        factor = vec16.fma(vec16.broadcast(_CUBIC), squares, vec16.broadcast(_LINEAR))
    below = vec16.add(vec16.broadcast(np.float32(1.0)), exp(vec16.multiply(gate, factor)))
    return vec16.multiply(vec16.divide(gate, below), up)


@inlined
def _gate_rows(args, gate_up, out, is_gelu):  # type: ignore[no-untyped-def]
    T, F = args[_ARG.T], args[_ARG.F]
    whole = F // 16 * 16
    rest = F - whole
    rows_at_once = max(1, 16384 // max(F, 1))
    while True:
        first = raw_memory.fetch_add(args, _ARG.next_row, rows_at_once)
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
    size = args[_ARG.T] * args[_ARG.F]
    gate_up = raw_memory.float32_at(args[_ARG.gate_up], 2 * size)
    out = raw_memory.float32_at(args[_ARG.out], size)
    _gate_rows(args, gate_up, out, is_gelu)


@inlined
def _bfloat16_rows(args, is_gelu):  # type: ignore[no-untyped-def]
    size = args[_ARG.T] * args[_ARG.F]
    gate_up = raw_memory.bfloat16_at(args[_ARG.gate_up], 2 * size)
    out = raw_memory.bfloat16_at(args[_ARG.out], size)
    _gate_rows(args, gate_up, out, is_gelu)


# One worker per case, so that no loop tests a flag.
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


def kernels(dtype: torch.dtype, activation: str) -> tuple[Compiled, ...]:
    """The kernels that the operation needs for a dtype and an activation."""
    return (_WORKERS[activation, dtype],)
