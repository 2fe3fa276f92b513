"""Linear on the CPU by oneDNN with prepacked weights.

Small float32 weights use MKL; bfloat16 uses `bf16_fallback` on a processor without bfloat16
products.

Measured on AMD Zen 5, one thread: oneDNN reaches about 200 GFLOP/s in float32 (MKL 90) and 390 in
bfloat16, and with 8 rows of a 1024 x 3072 weight 130 against MKL's 38. On Intel Emerald Rapids
(AMX), one thread, bfloat16: up to 16 rows a product takes as long as reading its weight (13 GB/s),
and 1024 rows reach 1.1 TFLOP/s. One packed layout is the fastest at 1 to 1024 rows.
"""

from collections.abc import Callable

import torch

from thothy_kernels.invariance import Prepacked, pack_float32
from thothy_kernels.linear.bf16_fallback import KERNELS, Bf16Fallback
from thothy_kernels.numba_simd import cpu_features
from thothy_kernels.numba_simd.functions import Compiled


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The packed product with weight [N, K] and bias [N] or None."""
    if weight.dtype == torch.float32:
        return pack_float32(weight, bias)
    if not cpu_features.MULTIPLIES_BFLOAT16:
        return Bf16Fallback(weight, bias)
    return Prepacked(weight, bias)


def kernels(dtype: torch.dtype) -> tuple[Compiled, ...]:
    """The kernels that products of a dtype need on this processor."""
    return () if dtype == torch.float32 or cpu_features.MULTIPLIES_BFLOAT16 else KERNELS
