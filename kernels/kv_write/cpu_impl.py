"""write_kv on the CPU: one scattered copy of bytes, so each element size has one worker."""

from typing import NamedTuple

import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import inlined, worker


class _Arguments(NamedTuple):
    T: int
    K: int
    P: int  # block_size
    D: int
    token_stride: int  # elements from row to row of tokens
    block_stride: int  # elements from block to block of cache
    cache_size: int  # elements from the first block to the end of the last
    slots: int  # address of int64 [T]
    tokens: int  # address of [T, K, D]
    cache: int  # address of [B, K, P, D]


_ARG = indices_of(_Arguments)


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
        arguments = _Arguments(
            T=T,
            K=K,
            P=P,
            D=D,
            token_stride=tokens.stride(0),
            block_stride=block,
            cache_size=(B - 1) * block + K * P * D,
            slots=slot_mapping.data_ptr(),
            tokens=tokens.data_ptr(),
            cache=cache.data_ptr(),
        )
        thread_pool.launch(function, pack(arguments), 1)


@inlined
def _write_tokens(args, tokens, cache):  # type: ignore[no-untyped-def]
    T, K, P, D = args[_ARG.T], args[_ARG.K], args[_ARG.P], args[_ARG.D]
    token_stride, block_stride = args[_ARG.token_stride], args[_ARG.block_stride]
    slots = raw_memory.int64_at(args[_ARG.slots], T)
    for t in range(T):
        slot = slots[t]
        if slot < 0:
            continue
        block, offset = slot // P, slot % P
        for head in range(K):
            source = t * token_stride + head * D
            target = block * block_stride + (head * P + offset) * D
            for d in range(D):
                cache[target + d] = tokens[source + d]


@worker
def _float32_tokens(args):  # type: ignore[no-untyped-def]
    _write_tokens(
        args,
        raw_memory.float32_at(args[_ARG.tokens], args[_ARG.T] * args[_ARG.token_stride]),
        raw_memory.float32_at(args[_ARG.cache], args[_ARG.cache_size]),
    )


@worker
def _bfloat16_tokens(args):  # type: ignore[no-untyped-def]
    _write_tokens(
        args,
        raw_memory.bfloat16_at(args[_ARG.tokens], args[_ARG.T] * args[_ARG.token_stride]),
        raw_memory.bfloat16_at(args[_ARG.cache], args[_ARG.cache_size]),
    )
