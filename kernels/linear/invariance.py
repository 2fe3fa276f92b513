"""What makes a float32 product of torch's CPU library give a row the same bits in every batch.

Measured (torch 2.13 CPU wheel, MKL 2024.2, AMD Zen 5 with AVX-512; F.linear with and without bias;
290 shapes, N and K from 1 to 50,000, odd ones among them; 1 to 2,048 rows, each row at every place
modulo 8; 1 and 2 threads):

- 1 to 3 rows run other code than more rows; with 2 threads, 5 to 7 rows do too.
- With every multiple of 8 rows a row has the same bits, wherever it stands, whatever stands beside
  it, with 1 and with 2 threads. Except
- for N <= 8 with odd K, where they depend on the row's place modulo 8. N >= 12 never showed it.

So inputs are padded to a multiple of 8 rows, and narrow weights to 16 outputs. The tests measure
it again on the machine that they run on.
"""

import torch
import torch.nn.functional as F

_ROW_MULTIPLE = 8
_LEAST_OUTPUTS = 16


class InvariantLinear:
    """F.linear in float32, with the padding that keeps a row's bits."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._num_outputs = weight.shape[0]
        missing = max(0, _LEAST_OUTPUTS - self._num_outputs)
        self._weight = F.pad(weight, (0, 0, 0, missing)).contiguous()
        self._bias = None if bias is None else F.pad(bias, (0, missing))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        T, K = x.shape
        missing = -T % _ROW_MULTIPLE
        if missing:
            padded = x.new_zeros((T + missing, K))
            padded[:T] = x
            x = padded
        y = F.linear(x, self._weight, self._bias)
        return y[:T, : self._num_outputs]
