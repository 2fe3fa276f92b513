"""apply_rope on the CPU: one pass over q and one over k, 16 elements of both halves at a time."""

from typing import NamedTuple

import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import inlined, worker
from thothy_kernels.rope.rotation import rotate

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 18


class _Arguments(NamedTuple):
    next_row: int  # counter shared by the threads
    T: int
    H: int  # heads of x
    D: int
    stride: int  # elements from row to row of x
    num_angles: int  # elements of cos_sin
    x: int  # address of [T, H, D]
    out: int  # address of [T, H, D], contiguous
    positions: int  # address of int64 [T]
    cos_sin: int  # address of float32 [L, D]


_ARG = indices_of(_Arguments)


def apply_rope(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    L = cos_sin.shape[0]
    numbers = positions.numpy()
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < L):
        raise ValueError(f"apply_rope: positions must lie in 0 .. {L - 1}")
    positions, cos_sin = positions.contiguous(), cos_sin.contiguous()
    return _rotated(q, positions, cos_sin), _rotated(k, positions, cos_sin)


def _rotated(x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    if x.stride(2) != 1 or x.stride(1) != x.shape[2]:
        x = x.contiguous()
    T, H, D = x.shape
    out = x.new_empty((T, H, D))
    arguments = _Arguments(
        next_row=0,
        T=T,
        H=H,
        D=D,
        stride=x.stride(0),
        num_angles=cos_sin.numel(),
        x=x.data_ptr(),
        out=out.data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
    )
    function = _float32_rows if x.dtype == torch.float32 else _bfloat16_rows
    num_threads = thread_pool.num_threads_for(T * H * D, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)
    return out


@inlined
def _rotate_rows(args, x, out):  # type: ignore[no-untyped-def]
    T, H, D, stride = args[_ARG.T], args[_ARG.H], args[_ARG.D], args[_ARG.stride]
    positions = raw_memory.int64_at(args[_ARG.positions], T)
    cos_sin = raw_memory.float32_at(args[_ARG.cos_sin], args[_ARG.num_angles])
    rows_at_once = max(1, 16384 // (H * D))
    while True:
        first = raw_memory.fetch_add(args, _ARG.next_row, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            for head in range(H):
                source, target = row * stride + head * D, (row * H + head) * D
                rotate(x, source, out, target, cos_sin, positions[row] * D, D // 2)


@worker
def _float32_rows(args):  # type: ignore[no-untyped-def]
    T = args[_ARG.T]
    _rotate_rows(
        args,
        raw_memory.float32_at(args[_ARG.x], T * args[_ARG.stride]),
        raw_memory.float32_at(args[_ARG.out], T * args[_ARG.H] * args[_ARG.D]),
    )


@worker
def _bfloat16_rows(args):  # type: ignore[no-untyped-def]
    T = args[_ARG.T]
    _rotate_rows(
        args,
        raw_memory.bfloat16_at(args[_ARG.x], T * args[_ARG.stride]),
        raw_memory.bfloat16_at(args[_ARG.out], T * args[_ARG.H] * args[_ARG.D]),
    )
