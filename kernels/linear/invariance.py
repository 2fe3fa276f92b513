"""Batch-invariant float32 products by torch's CPU libraries: a row has the same bits in any batch.

Measured with the torch 2.13 CPU wheel (MKL 2024.2, oneDNN 3.12): shapes with N and K from 1 to
50,000, odd ones included; 1 to 2,048 rows, at every index modulo 8; 1 and 2 threads.

- MKL on AMD Zen 5 (about 290 shapes): 1 to 3 rows run different code than more rows; with 2
  threads, 5 to 7 rows do too. With any multiple of 8 rows a row has the same bits at any index, in
  any batch, with 1 and with 2 threads; except for N <= 8 with odd K, where they depend on the index
  modulo 8. On Intel Emerald Rapids (about 600 small shapes) that holds up to K = 160; beyond, 8
  rows differ from 16, and some shapes differ between 1 and 2 threads.
- oneDNN, weights packed: 1 row runs different code for K >= 2048. From 2 rows on a row always has
  the same bits (23 shapes on AMD, 400 on Intel).

MKL is therefore used only for small weights with K <= 128, where it is faster: a call of oneDNN
costs 15 microseconds more. Rows are padded to a multiple of 8 for both, and narrow weights to 16
outputs for MKL. The tests repeat the measurement on the machine that they run on.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

_ROW_MULTIPLE = 8
_LEAST_OUTPUTS = 16
_LEAST_ELEMENTS_TO_PACK = 1 << 16
_MOST_INPUTS_PLAIN = 128


def pack_float32(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pack a float32 weight [N, K] on the CPU; the result multiplies x [T, K]."""
    if weight.numel() < _LEAST_ELEMENTS_TO_PACK and weight.shape[1] <= _MOST_INPUTS_PLAIN:
        return _Plain(weight, bias)
    return Prepacked(weight, bias)


class Prepacked:
    """A weight, float32 or bfloat16, in oneDNN's packed layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias
        self._keeps_bits = weight.dtype == torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = _padded_rows(x) if self._keeps_bits else x
        y = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return y[: x.shape[0]]


class _Plain:
    """F.linear in float32 (MKL), padded to be batch-invariant."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._num_outputs = weight.shape[0]
        missing = max(0, _LEAST_OUTPUTS - self._num_outputs)
        # F.pad by zero columns would copy, and a tied weight is shared with the embedding.
        self._weight = F.pad(weight, (0, 0, 0, missing)) if missing else weight.contiguous()
        self._bias = F.pad(bias, (0, missing)) if missing and bias is not None else bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(_padded_rows(x), self._weight, self._bias)
        return y[: x.shape[0], : self._num_outputs]


def _padded_rows(x: torch.Tensor) -> torch.Tensor:
    """x [T, K] padded with zero rows to a multiple of 8."""
    T, K = x.shape
    missing = -T % _ROW_MULTIPLE
    if not missing:
        return x
    padded = x.new_zeros((T + missing, K))
    padded[:T] = x
    return padded
