"""Bounds on the error of paged_attention on a device against float64."""

import torch
from attention_oracle import Case

# What PTX promises of the device's exp2 and division, relative to their results.
_APPROXIMATE = 2.0**-22


def bound_of(case: Case, exact: torch.Tensor, softcap: float) -> torch.Tensor:
    """float32: the rounding of its sums, and the device's exp2 and division, whose errors a cap
    takes into the scores. 16 bits: inputs are exact, each weight and the result are rounded."""
    means = case.mean_sizes(softcap)
    lost = case.float32_error(softcap) + 2 * (1 + 2 * softcap) * _APPROXIMATE * means
    if case.dtype == torch.float32:
        return lost
    info = torch.finfo(case.dtype)
    # Below the dtype's range weights have even steps.
    least = max(context for context, _ in case.lens) * info.smallest_normal * info.eps / 2
    lost = lost + info.eps / 2 * means + least * case.v.nan_to_num().abs().max().double()
    return lost + info.eps / 2 * (exact.abs() + lost)
