"""The single pass over all logits (Triton): maxima, scores and masses of groups of tokens.

A row is cut into groups of GROUP tokens, and a program reads CHUNK tokens. The maxima of the groups
locate the tokens that matter, so the kernels that follow read few groups again.
"""

import triton
import triton.language as tl

from thothy_kernels.sample.triton_impl.philox import rough_gumbel_of, words_of

INFINITY = tl.constexpr(float("inf"))
# Just below the float32 maximum; a temperature that low separates all logits anyway.
MOST = tl.constexpr(3.0e38)


@triton.jit
def filters_of(row, top_ks, top_ps, V):  # type: ignore[no-untyped-def]
    """(k, p) of a row: k is 0 if top-k keeps everything, p is below 1 if top-p filters."""
    k = tl.load(top_ks + row)
    return tl.where((k > 0) & (k < V), k, 0), tl.load(top_ps + row)


@triton.jit
def rough_inverse(temperature):  # type: ignore[no-untyped-def]
    """1 / temperature in float32, clamped to be finite."""
    return tl.minimum(1.0 / temperature.to(tl.float64), MOST).to(tl.float32)


@triton.jit
def finite_or_zero(value):  # type: ignore[no-untyped-def]
    """value, with infinities replaced by 0 so that a subtraction never yields NaN."""
    return tl.where(tl.abs(value) == INFINITY, 0.0, value)


@triton.jit
def scan_kernel(  # type: ignore[no-untyped-def]
    logits, temperatures, top_ks, top_ps, seeds, positions, maxima, scores, masses,
    V, row_stride, num_chunks, num_groups,
    GROUP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Scan one chunk of one row.

    maxima float32 [R, num_groups]: a group's highest logit, +inf if it holds NaN.
    scores float32 [R, num_groups], only for rows without top-k and top-p: a group's highest
    (logit - maximum of the group) / temperature + g, with an error below 3e-5 where it can win.
    masses float64 [R, num_chunks, 2], only for rows with top-p and without top-k: a chunk's highest
    logit and the sum of exp((logit - highest) / temperature).
    """
    row = (tl.program_id(0) // num_chunks).to(tl.int64)
    chunk = tl.program_id(0) % num_chunks
    groups = chunk * (CHUNK // GROUP) + tl.arange(0, CHUNK // GROUP)
    tokens = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    line = logits + row * row_stride
    value = tl.load(line + tokens, mask=tokens < V, other=float("-inf"))
    value = tl.where(value == value, value, INFINITY)
    highest = tl.max(value, 1)
    at = row * num_groups + groups
    tl.store(maxima + at, highest, mask=groups < num_groups)
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        k, p = filters_of(row, top_ks, top_ps, V)
        if (k == 0) & (p >= 1.0):
            quads = groups[:, None] * (GROUP // 4) + tl.arange(0, GROUP // 4)[None, :]
            words = words_of(tl.load(seeds + row), tl.load(positions + row), quads)
            below = value - finite_or_zero(highest)[:, None]
            score = below * rough_inverse(temperature) + rough_gumbel_of(words)
            tl.store(scores + at, tl.max(score, 1), mask=groups < num_groups)
        if (k == 0) & (p < 1.0):
            top = tl.max(highest, 0)
            below = value.to(tl.float64) - finite_or_zero(top).to(tl.float64)
            # Above 0 only in a row with an infinity, which is refused but must not overflow.
            z = tl.minimum(below * (1.0 / temperature.to(tl.float64)), 0.0)
            mass = masses + 2 * (row * num_chunks + chunk)
            tl.store(mass, top.to(tl.float64))
            tl.store(mass + 1, tl.sum(tl.sum(tl.exp(z), 1), 0))
