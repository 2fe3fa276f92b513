"""Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in Numba."""

import math

import numpy as np

from thothy_kernels.numba_simd.functions import inlined

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_32 = np.uint64(32)


@inlined
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Four random words from a counter of four words and a key of two, all uint32."""
    for _ in range(10):
        product_0 = np.uint64(c0) * _MULTIPLIER_0
        product_1 = np.uint64(c2) * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            np.uint32(np.uint32(product_1 >> _32) ^ c1 ^ k0),
            np.uint32(product_1),
            np.uint32(np.uint32(product_0 >> _32) ^ c3 ^ k1),
            np.uint32(product_0),
        )
        k0 = np.uint32(k0 + _WEYL_0)
        k1 = np.uint32(k1 + _WEYL_1)
    return c0, c1, c2, c3


@inlined
def gumbel(seed, position, token):  # type: ignore[no-untyped-def]
    """-log(-log u) of a token, float64, u in (0, 1)."""
    words = philox(
        np.uint32(token // 4),
        np.uint32(0),
        np.uint32(position),
        np.uint32(position >> 32),
        np.uint32(seed),
        np.uint32(seed >> 32),
    )
    word = words[0]
    if token % 4 == 1:
        word = words[1]
    elif token % 4 == 2:
        word = words[2]
    elif token % 4 == 3:
        word = words[3]
    uniform = (np.float64(word) + 0.5) * 2.0**-32
    return -math.log(-math.log(uniform))


@inlined
def complements(seed, position, first_token, out):  # type: ignore[no-untyped-def]
    """out = 1 - u of the tokens from first_token (a multiple of 4) on, float32, to 7 digits."""
    position_low, position_high = np.uint32(position), np.uint32(position >> 32)
    seed_low, seed_high = np.uint32(seed), np.uint32(seed >> 32)
    unit = np.float32(2.0**-32)
    for i in range(len(out) // 4):
        w0, w1, w2, w3 = philox(
            np.uint32(first_token // 4 + i),
            np.uint32(0),
            position_low,
            position_high,
            seed_low,
            seed_high,
        )
        out[4 * i] = np.float32(np.uint32(~w0)) * unit
        out[4 * i + 1] = np.float32(np.uint32(~w1)) * unit
        out[4 * i + 2] = np.float32(np.uint32(~w2)) * unit
        out[4 * i + 3] = np.float32(np.uint32(~w3)) * unit
