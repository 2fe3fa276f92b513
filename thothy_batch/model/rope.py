"""Computes the table of cosines and sines for rotary positions. L positions, D head dim.

Plain: angle = position / theta^(2i/D). linear divides every frequency by the factor (Chen et al.,
2306.15595); llama3 only the low ones, with a smooth band between; yarn blends from scaled to
unscaled along a ramp over the dimensions and scales the table (Peng et al., 2309.00071); longrope
divides each frequency by a factor of its own and scales the table (Ding et al., 2402.13753). It has
other factors for long contexts, whose rows follow those of short ones.
"""

import math
from dataclasses import replace

import torch

from thothy_batch.model.config.rope_config import RopeConfig


def cos_sin_table(rope: RopeConfig, head_dim: int, num_positions: int) -> torch.Tensor:
    """Return float32 [L, D]: cosines in the first half of a row, sines in the second.

    Elements that are not rotated turn by an angle of zero. If longrope's long factors are needed,
    their L rows follow `original_max_positions` rows of the short ones.
    """
    short = rope.original_max_positions
    if rope.kind == "longrope" and short < num_positions:
        long = replace(rope, original_max_positions=num_positions, short_factors=rope.long_factors)
        return torch.cat(
            (
                cos_sin_table(rope, head_dim, short),
                cos_sin_table(long, head_dim, num_positions),
            )
        )
    if rope.kind == "none":
        return _unrotated(num_positions, head_dim // 2)
    positions = torch.arange(num_positions, dtype=torch.float32)
    rotary_dim = int(head_dim * rope.rotated_share)
    angles = positions[:, None] * inverse_frequencies(rope, rotary_dim)[None, :]
    table = torch.cat((angles.cos(), angles.sin()), dim=1) * rope.attention_factor
    if rotary_dim == head_dim:
        return table
    rest = _unrotated(num_positions, (head_dim - rotary_dim) // 2)
    halves = zip(table.chunk(2, dim=1), rest.chunk(2, dim=1), strict=True)
    return torch.cat([part for half in halves for part in half], dim=1)


def _unrotated(num_positions: int, half: int) -> torch.Tensor:
    return torch.cat((torch.ones(num_positions, half), torch.zeros(num_positions, half)), dim=1)


def inverse_frequencies(rope: RopeConfig, rotary_dim: int) -> torch.Tensor:
    """Return radians per position, float32 [rotary_dim / 2]."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, rope.theta**exponents, rotary_dim)
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.short_factors) * rope.theta**exponents)
    return plain


def _llama3(rope: RopeConfig, plain: torch.Tensor) -> torch.Tensor:
    """Stretch long wavelengths by the factor, keep short ones, blend those between."""
    wavelengths = 2 * math.pi / plain
    longest_kept = rope.original_max_positions / rope.high_freq_factor
    shortest_scaled = rope.original_max_positions / rope.low_freq_factor
    turns = rope.original_max_positions / wavelengths
    kept_share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - kept_share) * plain / rope.factor + kept_share * plain
    scaled = torch.where(wavelengths > shortest_scaled, plain / rope.factor, blended)
    return torch.where(wavelengths < longest_kept, plain, scaled)


def _yarn(rope: RopeConfig, periods: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Keep fast dimensions, scale slow ones, with a ramp between."""
    low = _dimension_with_turns(rope, rope.beta_fast, head_dim)
    high = _dimension_with_turns(rope, rope.beta_slow, head_dim)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of zero width would divide by zero
    steps = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept_share = 1 - steps.clamp(0, 1)
    return 1.0 / (rope.factor * periods) * (1 - kept_share) + 1.0 / periods * kept_share


def _dimension_with_turns(rope: RopeConfig, turns: float, head_dim: int) -> float:
    """Return the fractional dimension with this number of turns over the trained positions."""
    positions_per_radian = rope.original_max_positions / (turns * 2 * math.pi)
    return head_dim * math.log(positions_per_radian) / (2 * math.log(rope.theta))
