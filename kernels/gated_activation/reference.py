"""silu_mul in plain torch: the definition."""

import torch


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = (half.float() for half in gate_up.chunk(2, dim=-1))
    # Not torch's own silu: it rounds otherwise at the end of a tensor than within it (measured),
    # so a row would depend on where in the batch it stands. torch.exp does not.
    return (gate / (1 + torch.exp(-gate.contiguous())) * up).to(gate_up.dtype)
