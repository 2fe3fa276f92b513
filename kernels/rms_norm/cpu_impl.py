"""rms_norm and add_rms_norm on the CPU: one pass over a row for its sum, one for the result."""

from typing import NamedTuple

import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import Compiled, Worker, inlined, worker
from thothy_kernels.rms_norm.row_norm import inverse_root, scale_row

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 18


class _Arguments(NamedTuple):
    next_row: int  # counter shared by the threads
    T: int  # rows
    N: int  # elements of a row
    eps: int  # float32 bits
    weight_offset: int  # float32 bits
    x: int  # address of [T, N]
    weight: int  # address of [N]
    out: int  # address of [T, N]
    delta: int  # address of [T, N], added to x; 0 in rms_norm
    total: int  # address of [T, N], receives x + delta; 0 in rms_norm


_ARG = indices_of(_Arguments)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> torch.Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    function = _float32_rows if x.dtype == torch.float32 else _bfloat16_rows
    _launch(function, _arguments(x, weight, out, eps, weight_offset))
    return out


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    x, delta, weight = x.contiguous(), delta.contiguous(), weight.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    function = _float32_sums if x.dtype == torch.float32 else _bfloat16_sums
    _launch(function, _arguments(x, weight, out, eps, weight_offset, delta, total))
    return total, out


def _arguments(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    eps: float,
    weight_offset: float,
    delta: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
) -> _Arguments:
    N = x.shape[-1]
    return _Arguments(
        next_row=0,
        T=x.numel() // N if N else 0,
        N=N,
        eps=thread_pool.float_bits(eps),
        weight_offset=thread_pool.float_bits(weight_offset),
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        out=out.data_ptr(),
        delta=0 if delta is None else delta.data_ptr(),
        total=0 if total is None else total.data_ptr(),
    )


def _launch(function: Worker, arguments: _Arguments) -> None:
    work = arguments.T * arguments.N
    num_threads = thread_pool.num_threads_for(work, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)


@inlined
def _norm_rows(args, x, weight, out, delta, total, adds):  # type: ignore[no-untyped-def]
    T, N, eps = args[_ARG.T], args[_ARG.N], raw_memory.float32_of_bits(args[_ARG.eps])
    offset = raw_memory.float32_of_bits(args[_ARG.weight_offset])
    rows_at_once = max(1, 16384 // N)
    while True:
        first = raw_memory.fetch_add(args, _ARG.next_row, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            if adds:
                # The row is still in the cache when it is summed and scaled.
                _add_row(x, delta, total, row * N, N)
            inverse = inverse_root(total, row * N, N, eps)
            scale_row(total, row * N, weight, out, row * N, N, inverse, offset)


@inlined
def _add_row(x, delta, total, start, N):  # type: ignore[no-untyped-def]
    whole = N // 16 * 16
    for i in range(start, start + whole, 16):
        vec16.store(total, i, vec16.add(vec16.load(x, i), vec16.load(delta, i)))
    if whole < N:
        i, rest = start + whole, N - whole
        added = vec16.add(vec16.load_first(x, i, rest), vec16.load_first(delta, i, rest))
        vec16.store_first(total, i, added, rest)


@inlined
def _float32_norm(args, adds):  # type: ignore[no-untyped-def]
    size = args[_ARG.T] * args[_ARG.N]
    x, out = raw_memory.float32_at(args[_ARG.x], size), raw_memory.float32_at(args[_ARG.out], size)
    weight = raw_memory.float32_at(args[_ARG.weight], args[_ARG.N])
    delta = raw_memory.float32_at(args[_ARG.delta], size) if adds else x
    total = raw_memory.float32_at(args[_ARG.total], size) if adds else x
    _norm_rows(args, x, weight, out, delta, total, adds)


@inlined
def _bfloat16_norm(args, adds):  # type: ignore[no-untyped-def]
    size = args[_ARG.T] * args[_ARG.N]
    x = raw_memory.bfloat16_at(args[_ARG.x], size)
    out = raw_memory.bfloat16_at(args[_ARG.out], size)
    weight = raw_memory.bfloat16_at(args[_ARG.weight], args[_ARG.N])
    delta = raw_memory.bfloat16_at(args[_ARG.delta], size) if adds else x
    total = raw_memory.bfloat16_at(args[_ARG.total], size) if adds else x
    _norm_rows(args, x, weight, out, delta, total, adds)


# One worker per case, so that no loop tests a flag.
@worker
def _float32_rows(args):  # type: ignore[no-untyped-def]
    _float32_norm(args, False)


@worker
def _bfloat16_rows(args):  # type: ignore[no-untyped-def]
    _bfloat16_norm(args, False)


@worker
def _float32_sums(args):  # type: ignore[no-untyped-def]
    _float32_norm(args, True)


@worker
def _bfloat16_sums(args):  # type: ignore[no-untyped-def]
    _bfloat16_norm(args, True)


def kernels(dtype: torch.dtype) -> tuple[Compiled, ...]:
    """The kernels that both operations need for a dtype."""
    if dtype == torch.float32:
        return _float32_rows, _float32_sums
    return _bfloat16_rows, _bfloat16_sums
