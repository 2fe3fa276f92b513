"""rope_and_write_kv on the CPU: one pass that norms and rotates each head in its final place.

The bits are those of `rms_norm`, `apply_rope` and `write_kv` one after the other.
"""

from typing import Any, NamedTuple

import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import Compiled, inlined, kernel, worker
from thothy_kernels.rms_norm.row_norm import inverse_root, scale_row
from thothy_kernels.rope.rotation import rotate

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17


class _Arguments(NamedTuple):
    next_token: int  # counter shared by the threads
    T: int
    H: int  # query heads
    K: int  # kv heads
    D: int
    P: int  # block_size
    qkv_stride: int  # elements from row to row of qkv
    block_stride: int  # elements from block to block of both caches
    cache_size: int  # elements from the first block to the end of the last
    num_angles: int  # elements of cos_sin
    has_norm: int
    eps: int  # float32 bits
    weight_offset: int  # float32 bits
    qkv: int  # address of [T, (H + 2K) * D]
    q_norm: int  # address of [D]; anything without a norm
    k_norm: int  # like q_norm
    positions: int  # address of int64 [T]
    cos_sin: int  # address of float32 [L, D]
    k_cache: int  # address of [B, K, P, D]
    v_cache: int  # like k_cache
    slots: int  # address of int64 [T]
    out: int  # address of [T, H, D]


_ARG = indices_of(_Arguments)


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
    _check(positions, slot_mapping, L, B * P)
    if qkv.stride(1) != 1:
        qkv = qkv.contiguous()
    positions, slots, cos_sin = (x.contiguous() for x in (positions, slot_mapping, cos_sin))
    norms = (qkv, qkv) if q_norm is None or k_norm is None else (q_norm, k_norm)
    norms = norms[0].contiguous(), norms[1].contiguous()
    out = qkv.new_empty((T, num_heads, D))
    arguments = _Arguments(
        next_token=0,
        T=T,
        H=num_heads,
        K=K,
        D=D,
        P=P,
        qkv_stride=qkv.stride(0),
        block_stride=block,
        cache_size=(B - 1) * block + K * P * D,
        num_angles=cos_sin.numel(),
        has_norm=q_norm is not None,
        eps=thread_pool.float_bits(eps),
        weight_offset=thread_pool.float_bits(weight_offset),
        qkv=qkv.data_ptr(),
        q_norm=norms[0].data_ptr(),
        k_norm=norms[1].data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        k_cache=k_cache.data_ptr(),
        v_cache=v_cache.data_ptr(),
        slots=slots.data_ptr(),
        out=out.data_ptr(),
    )
    function = _float32_tokens if qkv.dtype == torch.float32 else _bfloat16_tokens
    work = T * (num_heads + 2 * K) * D
    num_threads = thread_pool.num_threads_for(work, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)
    return out


def _check(positions: torch.Tensor, slots: torch.Tensor, L: int, num_slots: int) -> None:
    """ValueError for a bad position or slot, before anything is written."""
    wrong = _first_wrong(positions.numpy(), slots.numpy(), L, num_slots)
    if wrong == 1:
        raise ValueError(f"rope_and_write_kv: positions must lie in 0 .. {L - 1}")
    if wrong == 2:
        raise ValueError(
            f"rope_and_write_kv: slot_mapping has a slot outside -1 .. {num_slots - 1}"
        )


@kernel("int64(int64[:], int64[:], int64, int64)")
def _first_wrong(positions: Any, slots: Any, L: int, num_slots: int) -> int:
    """1 if a position is out of range, 2 if a slot is, 0 if none."""
    for i in range(len(positions)):
        if positions[i] < 0 or positions[i] >= L:
            return 1
        if slots[i] < -1 or slots[i] >= num_slots:
            return 2
    return 0


@inlined
def _norm_and_rotate(args, qkv, source, norm, out, target, cos_sin, angles):  # type: ignore[no-untyped-def]
    """out[target:] = one head at qkv[source:], normed if the model has norms, and rotated."""
    D = args[_ARG.D]
    if args[_ARG.has_norm]:
        eps = raw_memory.float32_of_bits(args[_ARG.eps])
        inverse = inverse_root(qkv, source, D, eps)
        offset = raw_memory.float32_of_bits(args[_ARG.weight_offset])
        scale_row(qkv, source, norm, out, target, D, inverse, offset)
        rotate(out, target, out, target, cos_sin, angles, D // 2)
    else:
        rotate(qkv, source, out, target, cos_sin, angles, D // 2)


@inlined
def _copy(source, start, target, to, D):  # type: ignore[no-untyped-def]
    """target[to : to + D] = source[start : start + D]."""
    for d in range(0, D // 16 * 16, 16):
        vec16.store(target, to + d, vec16.load(source, start + d))
    for d in range(D // 16 * 16, D):
        target[to + d] = source[start + d]


@inlined
def _write_tokens(args, qkv, q_norm, k_norm, k_cache, v_cache, out):  # type: ignore[no-untyped-def]
    T, H, K, P, D = args[_ARG.T], args[_ARG.H], args[_ARG.K], args[_ARG.P], args[_ARG.D]
    positions, slots = (
        raw_memory.int64_at(args[_ARG.positions], T),
        raw_memory.int64_at(args[_ARG.slots], T),
    )
    cos_sin = raw_memory.float32_at(args[_ARG.cos_sin], args[_ARG.num_angles])
    at_once = max(1, 16384 // ((H + 2 * K) * D))
    while True:
        first = raw_memory.fetch_add(args, _ARG.next_token, at_once)
        if first >= T:
            return
        for t in range(first, min(first + at_once, T)):
            source, angles = t * args[_ARG.qkv_stride], positions[t] * D
            for head in range(H):
                to = (t * H + head) * D
                _norm_and_rotate(args, qkv, source + head * D, q_norm, out, to, cos_sin, angles)
            if slots[t] < 0:
                continue
            start = slots[t] // P * args[_ARG.block_stride] + slots[t] % P * D
            for head in range(K):
                key, to = source + (H + head) * D, start + head * P * D
                _norm_and_rotate(args, qkv, key, k_norm, k_cache, to, cos_sin, angles)
                _copy(qkv, key + K * D, v_cache, to, D)


@worker
def _float32_tokens(args):  # type: ignore[no-untyped-def]
    D, size = args[_ARG.D], args[_ARG.cache_size]
    _write_tokens(
        args,
        raw_memory.float32_at(args[_ARG.qkv], args[_ARG.T] * args[_ARG.qkv_stride]),
        raw_memory.float32_at(args[_ARG.q_norm], D),
        raw_memory.float32_at(args[_ARG.k_norm], D),
        raw_memory.float32_at(args[_ARG.k_cache], size),
        raw_memory.float32_at(args[_ARG.v_cache], size),
        raw_memory.float32_at(args[_ARG.out], args[_ARG.T] * args[_ARG.H] * D),
    )


@worker
def _bfloat16_tokens(args):  # type: ignore[no-untyped-def]
    D, size = args[_ARG.D], args[_ARG.cache_size]
    _write_tokens(
        args,
        raw_memory.bfloat16_at(args[_ARG.qkv], args[_ARG.T] * args[_ARG.qkv_stride]),
        raw_memory.bfloat16_at(args[_ARG.q_norm], D),
        raw_memory.bfloat16_at(args[_ARG.k_norm], D),
        raw_memory.bfloat16_at(args[_ARG.k_cache], size),
        raw_memory.bfloat16_at(args[_ARG.v_cache], size),
        raw_memory.bfloat16_at(args[_ARG.out], args[_ARG.T] * args[_ARG.H] * D),
    )


def kernels(dtype: torch.dtype) -> tuple[Compiled, ...]:
    """The kernels that the operation needs for a dtype."""
    return _first_wrong, _float32_tokens if dtype == torch.float32 else _bfloat16_tokens
