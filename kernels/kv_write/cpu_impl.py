"""write_kv as one scattered copy: bytes are moved, so one kernel per element size serves."""

import numpy as np
import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool
from thothy_kernels.numba_simd.functions import inlined, worker


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    T, K, D = k.shape
    B, _, P, _ = k_cache.shape
    slots = slot_mapping.numpy()
    if slots.size and not (slots.min() >= -1 and slots.max() < B * P):
        raise ValueError(f"write_kv: slot_mapping has a slot outside -1 .. {B * P - 1}")
    slot_mapping = slot_mapping.contiguous()
    function = _float32_tokens if k.dtype == torch.float32 else _bfloat16_tokens
    for tokens, cache in ((k, k_cache), (v, v_cache)):
        if tokens.stride(2) != 1 or tokens.stride(1) != D:
            tokens = tokens.contiguous()
        block = cache.stride(0)
        sizes = (T, K, P, D, tokens.stride(0), (B - 1) * block + K * P * D, block)
        addresses = (slot_mapping.data_ptr(), tokens.data_ptr(), cache.data_ptr())
        thread_pool.launch(function, np.array((*sizes, *addresses), dtype=np.int64), 1)


@inlined
def _write_tokens(args, tokens, cache):  # type: ignore[no-untyped-def]
    T, K, P, D, stride = args[0], args[1], args[2], args[3], args[4]
    slots = raw_memory.int64_at(args[7], T)
    for t in range(T):
        slot = slots[t]
        if slot < 0:
            continue
        block, offset = slot // P, slot % P
        for head in range(K):
            source, target = t * stride + head * D, block * args[6] + (head * P + offset) * D
            for d in range(D):
                cache[target + d] = tokens[source + d]


@worker
def _float32_tokens(args):  # type: ignore[no-untyped-def]
    _write_tokens(
        args,
        raw_memory.float32_at(args[8], args[0] * args[4]),
        raw_memory.float32_at(args[9], args[5]),
    )


@worker
def _bfloat16_tokens(args):  # type: ignore[no-untyped-def]
    _write_tokens(
        args,
        raw_memory.bfloat16_at(args[8], args[0] * args[4]),
        raw_memory.bfloat16_at(args[9], args[5]),
    )
