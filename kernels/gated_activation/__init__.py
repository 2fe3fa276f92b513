"""The gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202).

out = silu(gate) * up,    silu(x) = x / (1 + exp(-x)),    gate_up = (gate | up)
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse

_impls = Implementations(__name__)


def silu_mul(gate_up: torch.Tensor, *, impl: str) -> torch.Tensor:
    """Gate: gate_up [T, 2F], gate first, to [T, F] of the same dtype; computed in float32.

    In float32 a row's bits are the same alone and in any batch. Raises ValueError for other
    shapes and dtypes.
    """
    if gate_up.dim() != 2 or gate_up.shape[1] % 2 or gate_up.dtype not in FLOAT_DTYPES:
        refuse("silu_mul", "gate_up", gate_up, "float32 or bfloat16 [T, 2F]")
    return _impls[impl].silu_mul(gate_up)
