"""apply_rope in one pass over q and one over k, 16 elements of both halves at a time."""

import numpy as np
import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.functions import inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 18


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
    sizes = (T, H, D, x.stride(0), cos_sin.numel())
    addresses = (x.data_ptr(), out.data_ptr(), positions.data_ptr(), cos_sin.data_ptr())
    args = np.array((0, *sizes, *addresses), dtype=np.int64)
    function = _float32_rows if x.dtype == torch.float32 else _bfloat16_rows
    thread_pool.launch(function, args, thread_pool.num_threads_for(T * H * D, _LEAST_PER_THREAD))
    return out


@inlined
def _rotate_rows(args, x, out):  # type: ignore[no-untyped-def]
    T, H, D, stride = args[1], args[2], args[3], args[4]
    positions = raw_memory.int64_at(args[8], T)
    cos_sin = raw_memory.float32_at(args[9], args[5])
    rows_at_once = max(1, 16384 // (H * D))
    while True:
        first = raw_memory.fetch_add(args, 0, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            for head in range(H):
                source, target = row * stride + head * D, (row * H + head) * D
                rotate(x, source, out, target, cos_sin, positions[row] * D, D // 2)


@inlined
def rotate(x, source, out, target, cos_sin, angles, half):  # type: ignore[no-untyped-def]
    """A head of 2 * half elements from x[source] on to out[target], which may be the same place;
    its cosines and sines begin at cos_sin[angles]."""
    for i in range(0, half, 16):
        n = min(16, half - i)
        if n == 16:
            a, b = vec16.load(x, source + i), vec16.load(x, source + half + i)
            cos, sin = vec16.load(cos_sin, angles + i), vec16.load(cos_sin, angles + half + i)
        else:
            a = vec16.load_first(x, source + i, n)
            b = vec16.load_first(x, source + half + i, n)
            cos = vec16.load_first(cos_sin, angles + i, n)
            sin = vec16.load_first(cos_sin, angles + half + i, n)
        first = vec16.subtract(vec16.multiply(a, cos), vec16.multiply(b, sin))
        second = vec16.add(vec16.multiply(b, cos), vec16.multiply(a, sin))
        if n == 16:
            vec16.store(out, target + i, first)
            vec16.store(out, target + half + i, second)
        else:
            vec16.store_first(out, target + i, first, n)
            vec16.store_first(out, target + half + i, second, n)


@worker
def _float32_rows(args):  # type: ignore[no-untyped-def]
    _rotate_rows(
        args,
        raw_memory.float32_at(args[6], args[1] * args[4]),
        raw_memory.float32_at(args[7], args[1] * args[2] * args[3]),
    )


@worker
def _bfloat16_rows(args):  # type: ignore[no-untyped-def]
    _rotate_rows(
        args,
        raw_memory.bfloat16_at(args[6], args[1] * args[4]),
        raw_memory.bfloat16_at(args[7], args[1] * args[2] * args[3]),
    )
