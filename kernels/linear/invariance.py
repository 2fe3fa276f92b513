"""What makes a float32 product of torch's CPU libraries give a row the same bits in every batch.

Measured: torch 2.13 CPU wheel (MKL 2024.2, oneDNN 3.12), AMD Zen 5 with AVX-512; about 290 shapes
for MKL (F.linear, with and without bias), 23 for oneDNN with packed weights; N and K from 1 to
50,000, odd ones among them; 1 to 2,048 rows, at every place modulo 8; 1 and 2 threads.

- MKL: 1 to 3 rows run other code than more rows; with 2 threads, 5 to 7 rows do too. With every
  multiple of 8 rows a row has the same bits, wherever it stands, whatever stands beside it, with 1
  and with 2 threads; except for N <= 8 with odd K, where they depend on its place modulo 8.
- oneDNN: 1 row runs other code where K >= 2048. From 2 rows on a row always has the same bits.

So rows are padded to a multiple of 8 for both, and narrow weights to 16 outputs for MKL. The tests
measure it again on the machine that they run on.
"""

import torch
import torch.nn.functional as F

_ROW_MULTIPLE = 8
_LEAST_OUTPUTS = 16


def padded_rows(x: torch.Tensor) -> torch.Tensor:
    """x [T, K] with zero rows up to a multiple of 8."""
    T, K = x.shape
    missing = -T % _ROW_MULTIPLE
    if not missing:
        return x
    padded = x.new_zeros((T + missing, K))
    padded[:T] = x
    return padded


class InvariantLinear:
    """F.linear in float32 (MKL), with the padding that keeps a row's bits."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._num_outputs = weight.shape[0]
        missing = max(0, _LEAST_OUTPUTS - self._num_outputs)
        # Padding by nothing would copy, and a tied table is shared with the embedding.
        self._weight = F.pad(weight, (0, 0, 0, missing)) if missing else weight.contiguous()
        self._bias = F.pad(bias, (0, missing)) if missing and bias is not None else bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(padded_rows(x), self._weight, self._bias)
        return y[: x.shape[0], : self._num_outputs]
