"""Batch-invariant float32 products by torch's CPU libraries: a row has the same bits in any batch.

Measured with the torch 2.13 CPU wheel (MKL 2024.2, oneDNN 3.12): shapes with N and K from 1 to
50,000, odd ones included; 1 to 2,048 rows, at every index modulo 8; 1 and 2 threads.

- MKL on AMD Zen 5 (about 290 shapes): 1 to 3 rows run other code than more rows; with 2 threads, 5
  to 7 rows do too. With every multiple of 8 rows a row has the same bits, wherever it stands,
  whatever stands beside it, with 1 and with 2 threads; except for N <= 8 with odd K, where they
  depend on its place modulo 8. On Intel Emerald Rapids (about 600 small shapes) that holds up to
  K = 160; beyond, 8 rows have other bits than 16, and some shapes differ between 1 and 2 threads.
- MKL with Intel's AVX2 alone: rows are taken by 24, and those left over run other code. No padding
  helps, so MKL is measured before it is used (`mkl_keeps_bits`).
- oneDNN, weights packed: 1 row runs other code where K >= 2048. From 2 rows on a row always has
  the same bits (23 shapes on AMD, 400 on Intel; 22 small ones without AVX-512).

MKL is therefore used only for small weights with K <= 128, where it is faster: a call of oneDNN
costs 15 microseconds more. Rows are padded to a multiple of 8 for both, and narrow weights to 16
outputs for MKL. The tests repeat the measurement on the machine that they run on.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

_ROW_MULTIPLE = 8
_LEAST_OUTPUTS = 16
_LEAST_ELEMENTS_TO_PACK = 1 << 16
_MOST_INPUTS_PLAIN = 128
# [N, K] of MKL's products: narrow, long, and those for whose shape it compiles code.
_MEASURED_SHAPES = ((16, 5), (48, 128), (128, 128), (512, 64))
_MEASURED_ROWS = (8, 16, 24, 32, 56, 80)


def pack_float32(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pack a float32 weight [N, K] on the CPU; the result multiplies x [T, K]."""
    is_small = weight.numel() < _LEAST_ELEMENTS_TO_PACK and weight.shape[1] <= _MOST_INPUTS_PLAIN
    if is_small and mkl_keeps_bits():
        return _Plain(weight, bias)
    return Prepacked(weight, bias)


def multiply_batches(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [B, T, K] times b [B, K, N], float32; T is a multiple of 8."""
    if mkl_keeps_bits():
        return torch.bmm(a, b)
    return torch.stack([Prepacked(right.T, None)(left) for left, right in zip(a, b, strict=True)])


@functools.cache
def mkl_keeps_bits() -> bool:
    """True if MKL gives a multiple of 8 rows the same bits as the first of more rows."""
    generator = torch.Generator().manual_seed(0)
    for N, K in _MEASURED_SHAPES:
        weight, x = (torch.rand(n, K, generator=generator) - 0.5 for n in (N, 320))
        whole = F.linear(x, weight)
        if any(not torch.equal(F.linear(x[:T], weight), whole[:T]) for T in _MEASURED_ROWS):
            return False
    return True


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
