"""Packs keys and values of blocks into float32 tiles: address, prefetch, convert, transpose."""

import numpy as np

from thothy_kernels.numba_simd import microkernels, vec16
from thothy_kernels.numba_simd.functions import inlined

# Keys packed at a time: with D = 128 as float32 they are 32 KB, within a level 1 cache of 48 KB.
KEYS = 64
# Bytes that one prefetch brings, on x86 and on most others.
_CACHE_LINE = 64


@inlined
def prefetch(cache, element_size, table, begin, end, head, stride, P, D):  # type: ignore[no-untyped-def]
    """Prefetch the keys or values of positions begin .. end of one head; cache is an address.

    Blocks are scattered, so the processor's own prefetcher finds each of them too late: without
    this, decode spends most of its time waiting for memory.
    """
    position = begin
    while position < end:
        offset = position % P
        run = min(P - offset, end - position)
        start = cache + (table[position // P] * stride + (head * P + offset) * D) * element_size
        for byte in range(0, run * D * element_size, _CACHE_LINE):
            microkernels.prefetch(start + byte)
        position += run


@inlined
def locate_keys(starts, table, begin, first_key, num_keys, head, stride, P, D):  # type: ignore[no-untyped-def]
    """starts[key] = offset of each key (and value) of a span in the cache; `stride` of a block.

    Entries before `first_key` repeat the first one, and entries up to a multiple of 16 the last:
    packing goes by 64 and by 16, and positions outside the window must not be read.
    """
    position = begin + first_key
    key = first_key
    while key < num_keys:
        offset = position % P
        run = min(P - offset, num_keys - key)
        start = table[position // P] * stride + (head * P + offset) * D
        for i in range(run):
            starts[key + i] = start + i * D
        key += run
        position += run
    for key in range(num_keys, (num_keys + 15) // 16 * 16):
        starts[key] = starts[num_keys - 1]
    for key in range(first_key):
        starts[key] = starts[first_key]


@inlined
def pack_keys(k_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """packed[d, key] = up to 64 keys as float32, in squares of 16 x 16."""
    whole = D // 16 * 16
    for key in range(0, num_keys, 16):
        for d in range(0, whole, 16):
            microkernels.transpose(k_cache, starts, first + key, d, packed, d * KEYS + key, KEYS)
        for d in range(whole, D):
            for i in range(16):
                packed[d * KEYS + key + i] = vec16.element(k_cache, starts[first + key + i] + d)


@inlined
def pack_keys_bfloat16(k_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """`pack_keys` of bfloat16 in rectangles of 16 keys x 32, at half the work."""
    if D % 32:
        pack_keys(k_cache, starts, first, num_keys, packed, D)
        return
    for key in range(0, num_keys, 16):
        for d in range(0, D, 32):
            microkernels.transpose_bf16(
                k_cache, starts, first + key, d, packed, d * KEYS + key, KEYS
            )


@inlined
def pack_values(v_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """packed[key, d] = up to 64 values as float32; zeros from D to the next multiple of 16."""
    width = (D + 15) // 16 * 16
    for key in range(num_keys):
        start = starts[first + key]
        for d in range(0, D // 16 * 16, 16):
            vec16.store(packed, key * width + d, vec16.load(v_cache, start + d))
        if width > D:
            whole = D // 16 * 16
            vec16.store(packed, key * width + whole, vec16.broadcast(np.float32(0.0)))
            for d in range(whole, D):
                packed[key * width + d] = vec16.element(v_cache, start + d)
