"""rope_and_write_kv in one pass: each head is normed and rotated where it will lie, with the bits
of the operations one after the other."""

from typing import Any

import numpy as np
import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.functions import inlined, kernel, worker
from thothy_kernels.rms_norm.cpu_impl import inverse_root, scale_row
from thothy_kernels.rope.cpu_impl import rotate

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17

# The arguments of a worker; the first is the counter that threads share.
(
    _NEXT, _T, _H, _K, _D, _P, _QKV_STRIDE, _BLOCK_STRIDE, _CACHE_SIZE, _NUM_ANGLES, _HAS_NORM,
    _EPS, _OFFSET, _QKV, _Q_NORM, _K_NORM, _POSITIONS, _COS_SIN, _K_CACHE, _V_CACHE, _SLOTS, _OUT,
) = range(22)  # fmt: skip


def rope_and_write_kv(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    num_heads: int,
    eps: float,
    weight_offset: float,
) -> torch.Tensor:
    B, K, P, D = k_cache.shape
    T, L, block = qkv.shape[0], cos_sin.shape[0], k_cache.stride(0)
    if v_cache.stride(0) != block:
        raise ValueError("rope_and_write_kv: the blocks of k_cache and v_cache lie differently")
    _check(positions, slot_mapping, L, B * P)
    if qkv.stride(1) != 1:
        qkv = qkv.contiguous()
    positions, slots, cos_sin = (x.contiguous() for x in (positions, slot_mapping, cos_sin))
    norms = (qkv, qkv) if q_norm is None or k_norm is None else (q_norm, k_norm)
    norms = norms[0].contiguous(), norms[1].contiguous()
    out = qkv.new_empty((T, num_heads, D))
    args = np.array(
        (
            *(0, T, num_heads, K, D, P, qkv.stride(0), block, (B - 1) * block + K * P * D),
            *(cos_sin.numel(), q_norm is not None),
            *(thread_pool.float_bits(eps), thread_pool.float_bits(weight_offset), qkv.data_ptr()),
            *(norms[0].data_ptr(), norms[1].data_ptr(), positions.data_ptr(), cos_sin.data_ptr()),
            *(k_cache.data_ptr(), v_cache.data_ptr(), slots.data_ptr(), out.data_ptr()),
        ),
        dtype=np.int64,
    )
    function = _float32_tokens if qkv.dtype == torch.float32 else _bfloat16_tokens
    work = T * (num_heads + 2 * K) * D
    thread_pool.launch(function, args, thread_pool.num_threads_for(work, _LEAST_PER_THREAD))
    return out


def _check(positions: torch.Tensor, slots: torch.Tensor, L: int, num_slots: int) -> None:
    """Before anything is written. Raises ValueError."""
    wrong = _first_wrong(positions.numpy(), slots.numpy(), L, num_slots)
    if wrong == 1:
        raise ValueError(f"rope_and_write_kv: positions must lie in 0 .. {L - 1}")
    if wrong == 2:
        raise ValueError(
            f"rope_and_write_kv: slot_mapping has a slot outside -1 .. {num_slots - 1}"
        )


@kernel("int64(int64[:], int64[:], int64, int64)")
def _first_wrong(positions: Any, slots: Any, L: int, num_slots: int) -> int:
    """1: a position is, 2: a slot is; 0: none."""
    for i in range(len(positions)):
        if positions[i] < 0 or positions[i] >= L:
            return 1
        if slots[i] < -1 or slots[i] >= num_slots:
            return 2
    return 0


@inlined
def _turn(args, qkv, source, norm, out, target, cos_sin, angles):  # type: ignore[no-untyped-def]
    """Norm, where there is one, and rotation of one head."""
    D = args[_D]
    if args[_HAS_NORM]:
        eps = raw_memory.float32_of_bits(args[_EPS])
        inverse = inverse_root(qkv, source, D, eps)
        offset = raw_memory.float32_of_bits(args[_OFFSET])
        scale_row(qkv, source, norm, out, target, D, inverse, offset)
        rotate(out, target, out, target, cos_sin, angles, D // 2)
    else:
        rotate(qkv, source, out, target, cos_sin, angles, D // 2)


@inlined
def _copy(source, start, target, to, D):  # type: ignore[no-untyped-def]
    for d in range(0, D // 16 * 16, 16):
        vec16.store(target, to + d, vec16.load(source, start + d))
    for d in range(D // 16 * 16, D):
        target[to + d] = source[start + d]


@inlined
def _write_tokens(args, qkv, q_norm, k_norm, k_cache, v_cache, out):  # type: ignore[no-untyped-def]
    T, H, K, P, D = args[_T], args[_H], args[_K], args[_P], args[_D]
    positions, slots = (
        raw_memory.int64_at(args[_POSITIONS], T),
        raw_memory.int64_at(args[_SLOTS], T),
    )
    cos_sin = raw_memory.float32_at(args[_COS_SIN], args[_NUM_ANGLES])
    at_once = max(1, 16384 // ((H + 2 * K) * D))
    while True:
        first = raw_memory.fetch_add(args, _NEXT, at_once)
        if first >= T:
            return
        for t in range(first, min(first + at_once, T)):
            source, angles = t * args[_QKV_STRIDE], positions[t] * D
            for head in range(H):
                to = (t * H + head) * D
                _turn(args, qkv, source + head * D, q_norm, out, to, cos_sin, angles)
            if slots[t] < 0:
                continue
            start = slots[t] // P * args[_BLOCK_STRIDE] + slots[t] % P * D
            for head in range(K):
                key, to = source + (H + head) * D, start + head * P * D
                _turn(args, qkv, key, k_norm, k_cache, to, cos_sin, angles)
                _copy(qkv, key + K * D, v_cache, to, D)


@worker
def _float32_tokens(args):  # type: ignore[no-untyped-def]
    D, size = args[_D], args[_CACHE_SIZE]
    _write_tokens(
        args,
        raw_memory.float32_at(args[_QKV], args[_T] * args[_QKV_STRIDE]),
        raw_memory.float32_at(args[_Q_NORM], D),
        raw_memory.float32_at(args[_K_NORM], D),
        raw_memory.float32_at(args[_K_CACHE], size),
        raw_memory.float32_at(args[_V_CACHE], size),
        raw_memory.float32_at(args[_OUT], args[_T] * args[_H] * D),
    )


@worker
def _bfloat16_tokens(args):  # type: ignore[no-untyped-def]
    D, size = args[_D], args[_CACHE_SIZE]
    _write_tokens(
        args,
        raw_memory.bfloat16_at(args[_QKV], args[_T] * args[_QKV_STRIDE]),
        raw_memory.bfloat16_at(args[_Q_NORM], D),
        raw_memory.bfloat16_at(args[_K_NORM], D),
        raw_memory.bfloat16_at(args[_K_CACHE], size),
        raw_memory.bfloat16_at(args[_V_CACHE], size),
        raw_memory.bfloat16_at(args[_OUT], args[_T] * args[_H] * D),
    )
