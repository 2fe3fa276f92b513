"""Samples rows with top-k or top-p (Triton): exact thresholds from few groups, then the draw.

The k-th highest of the groups' maxima is no higher than the k-th highest logit, so top-k reads only
groups that reach it. Top-p adds groups from the highest down until they hold enough probability. In
a flat row all groups are read in each round of the search.
"""

import triton
import triton.language as tl

from thothy_kernels.sample.triton_impl.philox import gumbel_of, words_of
from thothy_kernels.sample.triton_impl.radix_threshold import (
    find_threshold,
    list_groups,
    listed_tokens,
    mass_of,
    weight_of,
)
from thothy_kernels.sample.triton_impl.scan_kernel import INFINITY, filters_of
from thothy_kernels.sample.triton_impl.winner_kernel import highest_of

# First distance from the highest logit, in units of the temperature, that top-p searches: it holds
# the nucleus of a confident model. Beyond the farthest all groups are listed.
_REACH, _FARTHEST = tl.constexpr(4.0), tl.constexpr(64.0)


@triton.jit
def _kth_highest(  # type: ignore[no-untyped-def]
    line, maxima, listed, k, top, V, num_groups,
    GROUP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The k-th highest logit of a row."""
    wanted = k.to(tl.float64)
    bottom = tl.full((), float("-inf"), tl.float32)
    bound = bottom
    if k <= num_groups:
        bound, _ = find_threshold(
            maxima, listed, 0, num_groups, bottom, top, wanted, top, 1.0,
            True, False, TILE, GROUP, BITS,
        )  # fmt: skip
    num_listed = list_groups(maxima, num_groups, bound, listed, BLOCK)
    kth, _ = find_threshold(
        line, listed, num_listed, V, bound, top, wanted, top, 1.0, True, True, TILE, GROUP, BITS
    )
    return kth


@triton.jit
def _whole_mass(masses, num_chunks, top, inverse, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Total weight of a row, from the masses of its chunks."""
    mass = tl.zeros((BLOCK,), tl.float64)
    for base in range(0, num_chunks, BLOCK):
        chunks = base + tl.arange(0, BLOCK)
        is_chunk = chunks < num_chunks
        highest = tl.load(masses + 2 * chunks, mask=is_chunk, other=float("-inf"))
        own = tl.load(masses + 2 * chunks + 1, mask=is_chunk, other=0.0)
        mass += own * tl.exp((highest - top.to(tl.float64)) * inverse)
    return tl.sum(mass, 0)


@triton.jit
def _nucleus(  # type: ignore[no-untyped-def]
    line, maxima, masses, listed, k, p, floor, top, temperature, V, num_chunks, num_groups,
    GROUP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """(lowest logit that top-p keeps, weight above it, weight before which tokens are kept)."""
    inverse = 1.0 / temperature.to(tl.float64)
    lowest = floor
    reach = tl.full((), _REACH, tl.float64)
    if k == 0:
        lowest = (top.to(tl.float64) - reach * temperature.to(tl.float64)).to(tl.float32)
    num_listed = list_groups(maxima, num_groups, lowest, listed, BLOCK)
    mass = mass_of(line, listed, num_listed, V, lowest, top, inverse, TILE, GROUP)
    wanted = p.to(tl.float64) * mass
    if k == 0:
        wanted = p.to(tl.float64) * _whole_mass(masses, num_chunks, top, inverse, BLOCK)
        while (mass < wanted) & (lowest > float("-inf")):
            reach *= 2.0
            farther = top.to(tl.float64) - reach * temperature.to(tl.float64)
            lowest = tl.where(reach > _FARTHEST, float("-inf"), farther.to(tl.float32))
            num_listed = list_groups(maxima, num_groups, lowest, listed, BLOCK)
            mass = mass_of(line, listed, num_listed, V, lowest, top, inverse, TILE, GROUP)
    # The highest logit has weight 1, so p = 0 keeps it alone.
    boundary, above = find_threshold(
        line, listed, num_listed, V, lowest, top, tl.maximum(wanted, 1e-30), top, inverse,
        False, True, TILE, GROUP, BITS,
    )  # fmt: skip
    return boundary, above, wanted


@triton.jit
def _drawn_from(  # type: ignore[no-untyped-def]
    line, listed, num_listed, boundary, above, wanted, top, temperature, seed, position, V,
    TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The token with the highest logit / temperature + g among those kept.

    Kept are tokens above the boundary, and at the boundary the first ones with less than `wanted`
    weight before them, at least one.
    """
    weight = weight_of(boundary, top, 1.0 / temperature.to(tl.float64))
    best = tl.full((), float("-inf"), tl.float64)
    winner = tl.full((), -1, tl.int32)
    num_ties = tl.full((), 0, tl.int32)
    for tile in range(0, tl.cdiv(num_listed, TILE // GROUP)):
        tokens = listed_tokens(listed, num_listed, tile, TILE, GROUP)
        is_token = (tokens >= 0) & (tokens < V)
        value = tl.load(line + tokens, mask=is_token, other=float("-inf"))
        ties = (is_token & (value == boundary)).to(tl.int32)
        rank = num_ties + tl.cumsum(ties, 0) - ties
        is_before = (rank == 0) | (above + rank.to(tl.float64) * weight < wanted)
        is_kept = is_token & ((value > boundary) | ((ties > 0) & is_before))
        words = words_of(
            seed, position, listed_tokens(listed, num_listed, tile, TILE // 4, GROUP // 4)
        )
        score = value.to(tl.float64) / temperature.to(tl.float64) + gumbel_of(words)
        score = tl.where(is_kept, score, float("-inf"))
        highest = tl.max(score, 0)
        token = tl.min(tl.where(score == highest, tokens, 0x7FFFFFFF), 0)
        winner = tl.where(highest > best, token, winner)
        best = tl.maximum(best, highest)
        num_ties += tl.sum(ties, 0)
    return winner


@triton.jit
def filter_kernel(  # type: ignore[no-untyped-def]
    logits, temperatures, top_ks, top_ps, seeds, positions, maxima, masses, lists, winners,
    V, row_stride, num_chunks, num_groups,
    GROUP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Sample one row; `winner_kernel` samples rows without top-k and top-p.

    lists int32 [R, num_groups] is scratch. winners int64 [R]: -1 for NaN or an infinite maximum.
    """
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    k, p = filters_of(row, top_ks, top_ps, V)
    if (temperature > 0.0) & ((k > 0) | (p < 1.0)):
        line = logits + row * row_stride
        row_maxima = maxima + row * num_groups
        listed = lists + row * num_groups
        winner = tl.full((), -1, tl.int32)
        top = highest_of(row_maxima, num_groups, BLOCK)
        if tl.abs(top) < INFINITY:
            boundary = tl.full((), float("-inf"), tl.float32)
            above = tl.full((), 0.0, tl.float64)
            wanted = tl.full((), INFINITY, tl.float64)
            if k > 0:
                boundary = _kth_highest(
                    line, row_maxima, listed, k, top, V, num_groups, GROUP, TILE, BLOCK, BITS
                )
            if p < 1.0:
                boundary, above, wanted = _nucleus(
                    line, row_maxima, masses + 2 * row * num_chunks, listed, k, p, boundary, top,
                    temperature, V, num_chunks, num_groups, GROUP, TILE, BLOCK, BITS,
                )  # fmt: skip
            num_listed = list_groups(row_maxima, num_groups, boundary, listed, BLOCK)
            winner = _drawn_from(
                line, listed, num_listed, boundary, above, wanted, top, temperature,
                tl.load(seeds + row), tl.load(positions + row), V, TILE, GROUP,
            )  # fmt: skip
        tl.store(winners + row, winner.to(tl.int64))
