"""gated in plain torch: the definition."""

import torch

from thothy_kernels.gated_activation import GELU_CUBIC, GELU_LINEAR


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    gate, up = (half.float() for half in gate_up.chunk(2, dim=-1))
    gate = gate.contiguous()
    slope = gate if activation == "silu" else gate * (GELU_LINEAR + GELU_CUBIC * gate.square())
    # torch's own silu rounds differently at the end of a tensor than within it (measured), so a row
    # would depend on its index in the batch. torch.exp does not.
    return (gate / (1 + torch.exp(-slope)) * up).to(gate_up.dtype)
