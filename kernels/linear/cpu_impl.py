"""Linear on the CPU: oneDNN with prepacked weights; small float32 weights by MKL; bfloat16 by a
kernel of ours where the processor has no products of it.

Measured on AMD Zen 5, one thread: oneDNN reaches about 200 GFLOP/s in float32 (MKL 90) and 390 in
bfloat16, and with 8 rows of a 1024 x 3072 weight 130 against MKL's 38. On Intel Emerald Rapids
(AMX), one thread, bfloat16: up to 16 rows a product takes as long as reading its weight (13 GB/s),
1024 rows reach 1.1 TFLOP/s; the same packed layout is the fastest at 1 to 1024 rows, so there is
one for all row counts.
"""

from collections.abc import Callable

import torch

from thothy_kernels.linear.invariance import Prepacked, pack_float32
from thothy_kernels.numba_simd import cpu_features


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if weight.dtype == torch.float32:
        return pack_float32(weight, bias)
    if not cpu_features.MULTIPLIES_BFLOAT16:
        # Late: compiled where it is used alone.
        from thothy_kernels.linear.bf16_fallback import Widened

        return Widened(weight, bias)
    return Prepacked(weight, bias)
