"""Settings that sections share: the dtype they compute in, comparisons within a bound."""

import torch
from device_place import IS_DRY_RUN

# The interpreter computes in bfloat16 wrongly; the operations' contracts refuse float16.
HALF = torch.float32 if IS_DRY_RUN else torch.bfloat16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within(found: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor) -> str:
    """The largest share of its bound that an error has."""
    error = (found.cpu().double() - exact).abs()
    num_wrong = int((~(error <= bound)).sum())  # NaN counts
    assert not num_wrong, (
        f"{num_wrong} of {error.numel()} values are off by more than rounding, "
        f"by up to {error.max():.3g} where {exact.abs().max():.3g} is the largest"
    )
    return f"errors are at most {(error / bound.clamp_min(1e-300)).max():.2f} of their bounds"
