"""How far paged_attention on a device may be from float64."""

import torch
from attention_oracle import Night

# What PTX promises of the device's exp2 and division, relative to their results.
_APPROXIMATE = 2.0**-22


def bound_of(night: Night, exact: torch.Tensor, softcap: float) -> torch.Tensor:
    """float32: no further from float64 than the definition is, but for the order of its sums and
    the device's exp2 and division, whose errors a cap takes into the scores. 16 bits: inputs are
    exact, each weight and the result are rounded; float32 adds a tenth of that at most."""
    means = night.mean_sizes(softcap)
    largest = night.v.nan_to_num().abs().max().double()
    approximate = 2 * (1 + 2 * softcap) * _APPROXIMATE * means
    if night.dtype == torch.float32:
        of_reference = (night.run("reference", softcap=softcap).double() - exact).abs().max()
        return approximate + 3 * of_reference + 2 * torch.finfo(torch.float32).eps * largest
    info = torch.finfo(night.dtype)
    # Below the dtype's range weights have even steps.
    least = max(context for context, _ in night.lens) * info.smallest_normal * info.eps / 2
    return approximate + info.eps / 2 * (means + exact.abs()) * 1.1 + least * largest
