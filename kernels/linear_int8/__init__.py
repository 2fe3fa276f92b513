"""Linear layers in int8 (W8A8): weights quantised by output channel, activations by row.

A row of x, and likewise a row of W when it is packed, is s times a row of whole numbers q:

    s = max |x| / 127        q = round(x * (127 / max |x|)), ties to even        -127 <= q <= 127

    y[t, n] = ((sum_k q_x[t, k] q_w[n, k]) * s_w[n]) * s_x[t] + b[n]

The sum is exact (int32), then rounded to float32. The other operations are float32, each rounded,
and y is rounded to its dtype at the end. Quantisation is symmetric, without a zero point, and needs
no calibration data, as in LLM.int8() (arXiv:2208.07339) without its outlier columns.

A row whose largest magnitude is below LEAST_MAGNITUDE counts as 0. A row that holds an infinity or
a NaN becomes NaN and affects no other row. A row of y has the same bits alone and in any batch,
with any number of threads, in float32 and in bfloat16.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse
from thothy_kernels.linear import PackedLinear

__all__ = ["HIGHEST", "LEAST_MAGNITUDE", "MOST_FEATURES", "pack_linear_int8"]

HIGHEST = 127
LEAST_MAGNITUDE = 2.0**-100  # keeps 127 / max |x| far below the float32 maximum
# With more columns a sum of products of unsigned and signed bytes could overflow int32.
MOST_FEATURES = (1 << 31) // (128 * 128)

_impls = Implementations(__name__)


def pack_linear_int8(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    impl: str,
    out_dtype: torch.dtype | None = None,
) -> PackedLinear:
    """Quantise and pack weight [N, K], float32 or bfloat16, with bias [N] or None.

    The result multiplies x [T, K] of the weight's dtype and returns [T, N] in `out_dtype`, float32
    or bfloat16 (None: the weight's). It holds about N * K bytes; the plain weight may be freed.
    Raises ValueError for shapes and dtypes that do not fit.
    """
    if weight.dim() != 2 or weight.dtype not in FLOAT_DTYPES or not weight.numel():
        refuse("pack_linear_int8", "weight", weight, "float32 or bfloat16 [N, K], not empty")
    if weight.shape[1] > MOST_FEATURES:
        refuse("pack_linear_int8", "weight", weight, f"at most {MOST_FEATURES} columns")
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
        refuse("pack_linear_int8", "bias", bias, f"{weight.dtype} [{weight.shape[0]}]")
    out_dtype = out_dtype or weight.dtype
    if out_dtype not in FLOAT_DTYPES:
        raise ValueError(f"pack_linear_int8: out_dtype {out_dtype}, expected float32 or bfloat16")
    multiply = _impls[impl].pack(weight, bias, out_dtype)
    return PackedLinear(multiply, weight, impl, out_dtype)
