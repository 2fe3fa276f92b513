"""silu_mul in plain torch: the definition."""

import torch


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    # Contiguous halves: torch takes other code for strided rows than for a single row, and the
    # two round differently.
    gate, up = (half.contiguous().float() for half in gate_up.chunk(2, dim=-1))
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
