"""Linear in plain torch: the definition."""

import torch
import torch.nn.functional as F

# Measured (torch 2.13 CPU wheel, MKL 2024.2, AMD Zen 5 with AVX-512; 22 shapes with N and K from 1
# to 50000, odd ones among them; 1 to 2048 rows; 1 and 2 threads): a float32 row has the same bits
# with every multiple of 8 rows, whatever rows stand beside it, and with 1 and 2 threads. 1 to 3
# rows take other code; with 2 threads 5 to 7 rows do too; for N < 16 so does every odd number.
ROW_MULTIPLE = 8


class _Linear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.contiguous()
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        T = x.shape[0]
        missing = -T % ROW_MULTIPLE
        if missing and x.dtype == torch.float32:
            x = F.pad(x, (0, 0, 0, missing))
        return F.linear(x, self.weight, self.bias)[:T]


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> _Linear:
    return _Linear(weight, bias)
