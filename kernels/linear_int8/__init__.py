"""y = x W^T + b in whole numbers of 8 bits: weights by output channel, activations by row.

A row of x, and likewise a row of W when it is packed, is m times a row of whole numbers:

    s = max |x| / 127        q = round(x * (127 / max |x|)), ties to even        -127 <= q <= 127

    y[t, n] = ((sum_k q_x[t, k] q_w[n, k]) * s_w[n]) * s_x[t] + b[n]

The sum is exact (int32), then rounded to float32; all else is float32, one rounding after the
other, and y is rounded to its dtype at the end. Symmetric, without a zero point: 0 stays 0, and
nothing is learnt from data (W8A8, as in LLM.int8(), arXiv:2208.07339, without its outlier columns).

A row whose largest entry is below LEAST_MAGNITUDE counts as 0. A row that holds an infinity or a
NaN is NaN: no other row is touched by it. So a row of y has the same bits alone and in any batch,
with any number of threads, in float32 and in bfloat16.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse
from thothy_kernels.linear import PackedLinear

HIGHEST = 127
LEAST_MAGNITUDE = 2.0**-100  # 127 / m is far from the end of float32
# Above, a sum of products of unsigned and signed bytes could leave int32.
MOST_FEATURES = (1 << 31) // (128 * 128)

_impls = Implementations(__name__)


def pack_linear_int8(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    impl: str,
    out_dtype: torch.dtype | None = None,
) -> PackedLinear:
    """Quantise weight [N, K], float32 or bfloat16, and keep it with bias [N] or None.

    The result takes x [T, K] of the weight's dtype to [T, N] of `out_dtype`, float32 or bfloat16
    (None: the weight's). It holds about N * K bytes: the plain weight may be freed. Raises
    ValueError for shapes and dtypes that do not fit.
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
