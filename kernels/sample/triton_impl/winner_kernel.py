"""Samples rows without top-k and top-p (Triton), from the groups of `scan_kernel`."""

import triton
import triton.language as tl

from thothy_kernels.sample.triton_impl.philox import gumbel_of, words_of
from thothy_kernels.sample.triton_impl.scan_kernel import INFINITY, MOST, filters_of, rough_inverse

# Twice the error of a group's score (2.7e-5), with a factor of two to spare.
_MARGIN = tl.constexpr(1e-4)
# Two float64 ulps, relative: the error of the definition's own sum logit / temperature + g.
_DOUBLE_STEPS = tl.constexpr(4.5e-16)


@triton.jit
def highest_of(maxima, num_groups, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row's highest logit."""
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for base in range(0, num_groups, BLOCK):
        groups = base + tl.arange(0, BLOCK)
        value = tl.load(maxima + groups, mask=groups < num_groups, other=float("-inf"))
        highest = tl.maximum(highest, value)
    return tl.max(highest, 0)


@triton.jit
def _first_token(  # type: ignore[no-untyped-def]
    line, maxima, top, V, num_groups, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """The lowest token whose logit is `top`, which is finite."""
    group = tl.full((), 0x7FFFFFFF, tl.int32)
    for base in range(0, num_groups, BLOCK):
        groups = base + tl.arange(0, BLOCK)
        value = tl.load(maxima + groups, mask=groups < num_groups, other=float("-inf"))
        group = tl.minimum(group, tl.min(tl.where(value == top, groups, 0x7FFFFFFF), 0))
    tokens = group * GROUP + tl.arange(0, GROUP)
    value = tl.load(line + tokens, mask=tokens < V, other=float("-inf"))
    return tl.min(tl.where(value == top, tokens, 0x7FFFFFFF), 0)


@triton.jit
def _group_scores(maxima, scores, groups, num_groups, top, inverse):  # type: ignore[no-untyped-def]
    """Scores of groups relative to the row's highest logit, comparable among groups."""
    is_group = groups < num_groups
    highest = tl.load(maxima + groups, mask=is_group, other=float("-inf"))
    score = tl.load(scores + groups, mask=is_group, other=float("-inf"))
    return score + (highest - top) * inverse


@triton.jit
def _best_score(maxima, scores, num_groups, top, inverse, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The highest score of a row's groups."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for base in range(0, num_groups, BLOCK):
        groups = base + tl.arange(0, BLOCK)
        best = tl.maximum(best, _group_scores(maxima, scores, groups, num_groups, top, inverse))
    return tl.max(best, 0)


@triton.jit
def _next_group(  # type: ignore[no-untyped-def]
    maxima, scores, after, least, num_groups, top, inverse, BLOCK: tl.constexpr
):
    """The first group after `after` whose score is at least `least`; num_groups: none."""
    found = num_groups
    for base in range(0, num_groups, BLOCK):
        groups = base + tl.arange(0, BLOCK)
        score = _group_scores(maxima, scores, groups, num_groups, top, inverse)
        is_hit = (score >= least) & (groups > after)
        found = tl.minimum(found, tl.min(tl.where(is_hit, groups, num_groups), 0))
    return found


@triton.jit
def _drawn(  # type: ignore[no-untyped-def]
    line, maxima, scores, top, temperature, seed, position, V, num_groups,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token with the highest logit / temperature + g of all.

    Scores of groups are approximate: each group that may hold the token, usually one, is
    recomputed in float64.
    """
    inverse = rough_inverse(temperature)
    lost = tl.abs(top).to(tl.float64) * inverse.to(tl.float64) * _DOUBLE_STEPS
    margin = _MARGIN + tl.minimum(lost, MOST).to(tl.float32)
    least = _best_score(maxima, scores, num_groups, top, inverse, BLOCK) - margin
    best = tl.full((), float("-inf"), tl.float64)
    winner = tl.full((), -1, tl.int32)
    group = _next_group(maxima, scores, -1, least, num_groups, top, inverse, BLOCK)
    while group < num_groups:
        tokens = group * GROUP + tl.arange(0, GROUP)
        value = tl.load(line + tokens, mask=tokens < V, other=float("-inf")).to(tl.float64)
        words = words_of(seed, position, group * (GROUP // 4) + tl.arange(0, GROUP // 4))
        score = value / temperature.to(tl.float64) + gumbel_of(words)
        highest = tl.max(score, 0)
        token = tl.min(tl.where(score == highest, tokens, 0x7FFFFFFF), 0)
        winner = tl.where(highest > best, token, winner)
        best = tl.maximum(best, highest)
        group = _next_group(maxima, scores, group, least, num_groups, top, inverse, BLOCK)
    return winner


@triton.jit
def winner_kernel(  # type: ignore[no-untyped-def]
    logits, temperatures, top_ks, top_ps, seeds, positions, maxima, scores, winners,
    V, row_stride, num_groups,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sample one row; `filter_kernel` samples rows with top-k or top-p.

    winners int64 [R]: -1 for a row with NaN or an infinite maximum.
    """
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    k, p = filters_of(row, top_ks, top_ps, V)
    if ((temperature > 0.0) & ((k > 0) | (p < 1.0))) == 0:
        line = logits + row * row_stride
        row_maxima = maxima + row * num_groups
        row_scores = scores + row * num_groups
        top = highest_of(row_maxima, num_groups, BLOCK)
        winner = tl.full((), -1, tl.int32)
        if tl.abs(top) < INFINITY:
            if temperature > 0.0:
                seed, position = tl.load(seeds + row), tl.load(positions + row)
                winner = _drawn(
                    line, row_maxima, row_scores, top, temperature, seed, position, V, num_groups,
                    GROUP, BLOCK,
                )  # fmt: skip
            else:
                winner = _first_token(line, row_maxima, top, V, num_groups, GROUP, BLOCK)
        tl.store(winners + row, winner.to(tl.int64))
