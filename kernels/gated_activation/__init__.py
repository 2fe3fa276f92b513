"""Gated activation of a SwiGLU or GeGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202).

out = act(gate) * up,    act(x) = x / (1 + exp(-s(x))),    gate_up = (gate | up)

silu: s(x) = x. gelu_tanh, the tanh approximation of GELU (Hendrycks and Gimpel 2016,
arXiv:1606.08415): s(x) = 2 sqrt(2 / pi) (x + 0.044715 x^3), because (1 + tanh(z)) / 2 is the
logistic function of 2z. This form stays accurate where 1 + tanh(z) would cancel.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse

__all__ = ["ACTIVATIONS", "GELU_CUBIC", "GELU_LINEAR", "gated"]

ACTIVATIONS = ("silu", "gelu_tanh")

# s(x) of gelu_tanh is x * (GELU_LINEAR + GELU_CUBIC * x^2).
GELU_LINEAR = 1.5957691216057308
GELU_CUBIC = GELU_LINEAR * 0.044715

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


def gated(gate_up: torch.Tensor, *, activation: str, impl: str) -> torch.Tensor:
    """act(gate) * up for gate_up [T, 2F], gate first; returns [T, F] of the same dtype.

    Computed in float32. In float32 a row's bits are the same alone and in any batch. Raises
    ValueError for other shapes, dtypes and activations.
    """
    if gate_up.dim() != 2 or gate_up.shape[1] % 2 or gate_up.dtype not in FLOAT_DTYPES:
        refuse("gated", "gate_up", gate_up, "float32 or bfloat16 [T, 2F]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"gated: no activation {activation!r}; there are {', '.join(ACTIVATIONS)}")
    return _impls[impl].gated(gate_up, activation)
