"""Radix search for the logit above which a row holds a wanted weight (Triton), without a sort.

Floats are searched as integers of the same order, some bits at a time from the highest on. Only
listed groups of tokens are read: those whose maximum is high enough to matter.
"""

import triton
import triton.language as tl

_SIGN = tl.constexpr(0x80000000)
_ALL = tl.constexpr(0xFFFFFFFF)


@triton.jit
def key_of(value):  # type: ignore[no-untyped-def]
    """uint32 keys in the order of float32, with -0.0 equal to 0.0. NaN is not supported."""
    bits = value.to(tl.uint32, bitcast=True)
    bits = tl.where(bits == _SIGN, 0, bits)
    return tl.where(bits >= _SIGN, bits ^ _ALL, bits | _SIGN)


@triton.jit
def value_of(key):  # type: ignore[no-untyped-def]
    """The float32 of a key."""
    return tl.where(key >= _SIGN, key ^ _SIGN, key ^ _ALL).to(tl.float32, bitcast=True)


@triton.jit
def list_groups(maxima, num_groups, least, listed, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write groups whose maximum is at least `least` to listed, ascending; returns their number."""
    tl.debug_barrier()  # all threads have read the previous list
    count = tl.full((), 0, tl.int32)
    for base in range(0, num_groups, BLOCK):
        groups = base + tl.arange(0, BLOCK)
        value = tl.load(maxima + groups, mask=groups < num_groups, other=float("-inf"))
        is_hit = (value >= least) & (groups < num_groups)
        hits = is_hit.to(tl.int32)
        tl.store(listed + count + tl.cumsum(hits, 0) - 1, groups, mask=is_hit)
        count += tl.sum(hits, 0)
    tl.debug_barrier()  # all threads see what the others wrote
    return count


@triton.jit
def listed_tokens(listed, num_listed, tile, TILE: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tokens [TILE] of the tile-th part of the listed groups, ascending; negative: none."""
    offs = tl.arange(0, TILE)
    at = tile * (TILE // GROUP) + offs // GROUP
    group = tl.load(listed + at, mask=at < num_listed, other=-1)
    return group * GROUP + offs % GROUP


@triton.jit
def _tile_of(  # type: ignore[no-untyped-def]
    line, listed, num_listed, V, tile, LISTED: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr
):
    """(values [TILE], mask of valid ones)."""
    if LISTED:
        tokens = listed_tokens(listed, num_listed, tile, TILE, GROUP)
    else:
        tokens = tile * TILE + tl.arange(0, TILE)
    is_token = (tokens >= 0) & (tokens < V)
    return tl.load(line + tokens, mask=is_token, other=float("-inf")), is_token


@triton.jit
def weight_of(value, top, inverse):  # type: ignore[no-untyped-def]
    """exp((value - top) / temperature) in float64, for values up to `top`."""
    below = tl.minimum(value, top).to(tl.float64) - top.to(tl.float64)
    return tl.exp(below * inverse)


@triton.jit
def mass_of(  # type: ignore[no-untyped-def]
    line, listed, num_listed, V, least, top, inverse, TILE: tl.constexpr, GROUP: tl.constexpr
):
    """Total weight of tokens of the listed groups whose logit is at least `least`."""
    mass = tl.zeros((TILE,), tl.float64)
    for tile in range(0, tl.cdiv(num_listed, TILE // GROUP)):
        value, is_token = _tile_of(line, listed, num_listed, V, tile, True, TILE, GROUP)
        mass += tl.where(is_token & (value >= least), weight_of(value, top, inverse), 0.0)
    return tl.sum(mass, 0)


@triton.jit
def find_threshold(  # type: ignore[no-untyped-def]
    line, listed, num_listed, V, lowest, highest, wanted, top, inverse,
    COUNTS: tl.constexpr, LISTED: tl.constexpr,
    TILE: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """(t, weight of the values above t) for the highest t in lowest .. highest that qualifies.

    t qualifies if the values >= t weigh at least `wanted`, which is above 0; lowest if none does. A
    value has weight 1 (COUNTS) or that of `weight_of`. With LISTED, line holds V logits, and the
    listed groups hold all of them >= lowest; otherwise line holds V values. No value exceeds
    highest.
    """
    BINS: tl.constexpr = 1 << BITS
    bins = tl.arange(0, BINS)
    num_tiles = tl.cdiv(V, TILE)
    if LISTED:
        num_tiles = tl.cdiv(num_listed, TILE // GROUP)
    low = key_of(lowest)
    span = key_of(highest) - low
    shift = tl.full((), 0, tl.int32)
    while (span >> shift) >= BINS:
        shift += BITS
    above = tl.full((), 0.0, tl.float64)
    while shift >= 0:
        # t is in one of BINS bins of 2^shift keys from `low` up; `above` is the weight beyond them.
        from_bin = tl.zeros((BINS, TILE), tl.float64)
        for tile in range(0, num_tiles):
            value, is_token = _tile_of(line, listed, num_listed, V, tile, LISTED, TILE, GROUP)
            key = key_of(value)
            steps = (key - low) >> shift
            is_inside = is_token & (key >= low) & (steps < BINS)
            if COUNTS:
                weight = is_inside.to(tl.float64)
            else:
                weight = tl.where(is_inside, weight_of(value, top, inverse), 0.0)
            is_from = steps.to(tl.int32)[None, :] >= bins[:, None]
            from_bin += tl.where(is_from, weight[None, :], 0.0)
        weights = tl.sum(from_bin, 1)
        bin = tl.max(tl.where(above + weights >= wanted, bins, 0), 0)
        above += tl.sum(tl.where(bins == bin + 1, weights, 0.0), 0)
        low += bin.to(tl.uint32) << shift.to(tl.uint32)
        shift -= BITS
    return value_of(low), above
