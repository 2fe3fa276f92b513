"""Philox random words and Gumbel noise on a device (Triton)."""

import triton
import triton.language as tl

_UNIT = tl.constexpr(2.0**-32)
_MINUS_LN2 = tl.constexpr(-0.6931471805599453)


@triton.jit
def words_of(seed, position, quads):  # type: ignore[no-untyped-def]
    """Words uint32 [..., 4 * N] of tokens 4 * quad .. 4 * quad + 3 for quads int32 [..., N].

    seed and position are int64.
    """
    low, high = position.to(tl.int32), (position >> 32).to(tl.int32)
    w0, w1, w2, w3 = tl.philox(seed, quads, 0, low, high)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def gumbel_of(words):  # type: ignore[no-untyped-def]
    """-log(-log u) in float64, u in (0, 1)."""
    uniform = (words.to(tl.float64) + 0.5) * _UNIT
    return -tl.log(-tl.log(uniform))


@triton.jit
def rough_gumbel_of(words):  # type: ignore[no-untyped-def]
    """-log(-log u) in float32, with an error below 1.2e-5.

    The device's logarithm is off by up to 2^-22 near 1 (PTX ISA, lg2.approx), too much for -log u
    with u near 1, where the highest scores are. There the series of -log(1 - x) replaces it; its
    truncation error is below x^5 / 6 = 1.6e-7 of the value.
    """
    uniform = (words.to(tl.float32) + 0.5) * _UNIT
    rest = ((words ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * _UNIT
    series = 1.0 + rest * (0.5 + rest * (1.0 / 3.0 + rest * (0.25 + rest * 0.2)))
    exponent = tl.where(rest < 0.0625, rest * series, tl.log2(uniform) * _MINUS_LN2)
    return tl.log2(exponent) * _MINUS_LN2
