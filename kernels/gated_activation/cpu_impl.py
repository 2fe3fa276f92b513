"""silu_mul in one pass, 16 elements at a time."""

import numpy as np
import torch

from thothy_kernels.compiled import lanes, memory, threads
from thothy_kernels.compiled.exponential import exp
from thothy_kernels.compiled.functions import inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate_up = gate_up.contiguous()
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((T, F))
    args = np.array((0, T, F, gate_up.data_ptr(), out.data_ptr()), dtype=np.int64)
    function = _float32_rows if gate_up.dtype == torch.float32 else _bfloat16_rows
    threads.launch(function, args, threads.num_threads_for(T * F, _LEAST_PER_THREAD))
    return out


@inlined
def _gate(gate, up):  # type: ignore[no-untyped-def]
    one = lanes.spread(np.float32(1.0))
    below = lanes.add(one, exp(lanes.subtract(lanes.spread(np.float32(0.0)), gate)))
    return lanes.multiply(lanes.divide(gate, below), up)


@inlined
def _gate_rows(args, gate_up, out):  # type: ignore[no-untyped-def]
    T, F = args[1], args[2]
    whole = F // 16 * 16
    rest = F - whole
    rows_at_once = max(1, 16384 // max(F, 1))
    while True:
        first = memory.fetch_add(args, 0, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            gate, up, to = 2 * row * F, (2 * row + 1) * F, row * F
            for i in range(0, whole, 16):
                part = _gate(lanes.load(gate_up, gate + i), lanes.load(gate_up, up + i))
                lanes.store(out, to + i, part)
            if rest:
                gate_rest = lanes.load_first(gate_up, gate + whole, rest)
                up_rest = lanes.load_first(gate_up, up + whole, rest)
                lanes.store_first(out, to + whole, _gate(gate_rest, up_rest), rest)


@worker
def _float32_rows(args):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    _gate_rows(args, memory.float32_at(args[3], 2 * size), memory.float32_at(args[4], size))


@worker
def _bfloat16_rows(args):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    _gate_rows(args, memory.bfloat16_at(args[3], 2 * size), memory.bfloat16_at(args[4], size))
