"""copy_blocks on a CUDA device: one launch for all blocks, keys and values side by side."""

import torch
import triton
import triton.language as tl

from thothy_kernels.launch import Variant, check_device
from thothy_kernels.transfer import send

# Bytes that a program copies of a block of keys, and as many of values. A thread copies 64 of each:
# eight loads of 16 bytes in flight. Blocks of 64 kB have 8 programs, so that even the few pairs of
# one step occupy many multiprocessors.
_CHUNK, _NUM_WARPS = 8192, 4

# Elements are copied as integers of their size, bit by bit.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def copy_kernel(  # type: ignore[no-untyped-def]
    k_cache, v_cache, src_ids, dst_ids, k_stride, v_stride,
    SIZE: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy one of the CHUNKS of a pair of blocks, SIZE elements each, with strides from block to
    block. src_ids, dst_ids int64, within the caches."""
    pair = tl.program_id(0) // CHUNKS
    src, dst = tl.load(src_ids + pair), tl.load(dst_ids + pair)
    offs = tl.program_id(0) % CHUNKS * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    k = tl.load(k_cache + src * k_stride + offs, mask=mask)
    v = tl.load(v_cache + src * v_stride + offs, mask=mask)
    tl.store(k_cache + dst * k_stride + offs, k, mask=mask)
    tl.store(v_cache + dst * v_stride + offs, v, mask=mask)


def copy_blocks(
    k_cache: torch.Tensor, v_cache: torch.Tensor, src_ids: list[int], dst_ids: list[int]
) -> None:
    check_device("copy_blocks", k_cache, v_cache)
    if not (k_cache[0].is_contiguous() and v_cache[0].is_contiguous()):
        raise ValueError("copy_blocks: implementation triton needs blocks that are contiguous")
    size = k_cache[0].numel()
    if size == 0:
        return
    words = _WORDS[k_cache.element_size()]
    block = _CHUNK // k_cache.element_size()
    num_chunks = triton.cdiv(size, block)
    src, dst = send(torch.tensor((src_ids, dst_ids)), k_cache.device)
    copy_kernel[(len(src_ids) * num_chunks,)](
        *(k_cache.view(words), v_cache.view(words), src, dst),
        *(k_cache.stride(0), v_cache.stride(0)),
        SIZE=size,
        CHUNKS=num_chunks,
        BLOCK=block,
        num_warps=_NUM_WARPS,
    )


def variants() -> list[Variant]:
    """Variants for Qwen3 0.6B and Llama 8B: 28 or 32 layers of 8 heads of 128, blocks of 32."""
    return [
        Variant(
            f"copy_{layers}_{word}",
            copy_kernel,
            {
                "k_cache": f"*{word}",
                "v_cache": f"*{word}",
                "src_ids": "*i64",
                "dst_ids": "*i64",
                "k_stride": "i32",
                "v_stride": "i32",
            },
            {
                "SIZE": layers * 8 * 32 * 128,
                "CHUNKS": triton.cdiv(layers * 8 * 32 * 128, _CHUNK // num_bytes),
                "BLOCK": _CHUNK // num_bytes,
            },
            _NUM_WARPS,
            divisible=("k_stride", "v_stride"),
        )
        for layers in (28, 32)
        for word, num_bytes in (("i16", 2), ("i32", 4))
    ]
