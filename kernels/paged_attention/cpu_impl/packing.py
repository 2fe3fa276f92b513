"""From blocks to packed tiles: find keys and values, fetch them ahead, widen, transpose."""

import numpy as np

from thothy_kernels.numba_simd import microkernels, vec16
from thothy_kernels.numba_simd.functions import inlined

# Keys packed at a time: with D = 128 as float32 they are 32 KB, within a level 1 cache of 48 KB.
KEYS = 64
# Bytes that one prefetch brings, on x86 and on most others.
_CACHE_LINE = 64


@inlined
def fetch_ahead(cache, element_size, table, begin, end, head, stride, P, D):  # type: ignore[no-untyped-def]
    """Ask for the keys (or values) of positions begin .. end of one head, cache an address.

    Blocks lie anywhere, so the processor's own prefetching finds each of them too late: without
    this, decode waits for memory most of its time.
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
    """Where the keys (and values) of a span start in the caches; `stride`: of a block.

    Before `first_key` the first one is repeated, and up to a multiple of 16 the last: packing goes
    by 64 and by 16, and what nobody sees must not be read.
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
    """packed[d, key] float32 of up to 64 keys, by squares of 16 by 16."""
    whole = D // 16 * 16
    for key in range(0, num_keys, 16):
        for d in range(0, whole, 16):
            microkernels.transpose(k_cache, starts, first + key, d, packed, d * KEYS + key, KEYS)
        for d in range(whole, D):
            for i in range(16):
                packed[d * KEYS + key + i] = vec16.element(k_cache, starts[first + key + i] + d)


@inlined
def pack_keys_bfloat16(k_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """The same by rectangles of 16 keys by 32, which needs half the work."""
    if D % 32:
        pack_keys(k_cache, starts, first, num_keys, packed, D)
        return
    for key in range(0, num_keys, 16):
        for d in range(0, D, 32):
            microkernels.transpose_pairs(
                k_cache, starts, first + key, d, packed, d * KEYS + key, KEYS
            )


@inlined
def pack_values(v_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """packed[key, d] float32 of up to 64 keys, zeros from D up to the next multiple of 16."""
    width = (D + 15) // 16 * 16
    for key in range(num_keys):
        start = starts[first + key]
        for d in range(0, D // 16 * 16, 16):
            vec16.store(packed, key * width + d, vec16.load(v_cache, start + d))
        if width > D:
            whole = D // 16 * 16
            vec16.store(packed, key * width + whole, vec16.spread(np.float32(0.0)))
            for d in range(whole, D):
                packed[key * width + d] = vec16.element(v_cache, start + d)
