"""A float64 model as it is, and with the errors that a narrower format makes in it.

Monte Carlo arithmetic (Parker, 1997): each operation is done in float64, and its result moved by a
random error of the size that rounding gives it. The distance between two such runs follows from the
format, the lengths of the sums and the magnitudes met, and from no processor or library.

- One rounding errs by at most a unit (half the step from 1 to the next number) of the result,
  evenly: a variance of unit² / 3 times the result's square. (It is 0.54 of that for numbers evenly
  spread in their logarithm: the further one is above a power of two, the less it loses.)
- A sum of K terms is rounded after every term. Added one by one, the longest way that there is, its
  partial sums have squares of (K / 6) squares(terms) + (K / 3) square(sum) in all, in the mean
  over all orders; the products before them have squares(terms).
- A function (exp, tanh, ...) errs by two units; a gate, whose formula cancels, by two of its
  argument; a power of e, besides, by the rounding of its exponent.

A bound of a single number is nine standard deviations. Sums of even errors are spread no wider than
a normal distribution of their variance, and of that 5e-18 is beyond: of 10^8 numbers one with a
probability of 5e-10. But one number has its terms in one order. Its partial sums are a random walk
to a known end (a Brownian bridge), whose square may be many times the mean: errors reach t times
unit / 3^0.5 * (K squares(terms))^0.5 with a probability that falls as exp(-pi t). With 2 K in place
of K / 6 nine deviations are t = 12.7, which leaves 4e-18.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FLOAT32_UNIT = torch.finfo(torch.float32).eps / 2

_aten = torch.ops.aten
_ARITHMETIC = (_aten.add, _aten.sub, _aten.mul, _aten.div)
_FUNCTIONS = (_aten.exp, _aten.tanh, _aten.cos, _aten.sin, _aten.rsqrt, _aten.pow)
_GATES = (_aten.silu, _aten.gelu)
_PRODUCTS = (_aten.mm, _aten.bmm, _aten.addmm)
_SUMS = (_aten.sum, _aten.mean)
_ROUNDS = {*_ARITHMETIC, *_FUNCTIONS, *_GATES, *_PRODUCTS, *_SUMS, _aten._softmax, _aten._to_copy}


class Rounding(TorchDispatchMode):
    """Random errors of a format in all that a float64 model computes; none without a format.

    With bfloat16, what the model computes in float32 in between is left as it is, and so are sums,
    which are float32 up to their end.
    """

    def __init__(self, dtype: torch.dtype | None = None, seed: int = 0) -> None:
        super().__init__()
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_float64 = args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if func is _aten._to_copy.default and is_float64 and self._dtype != torch.bfloat16:
            kwargs = {**kwargs, "dtype": torch.float64}
        result = func(*args, **kwargs)
        if self._dtype is None or getattr(result, "dtype", None) != torch.float64:
            return result
        squares = self._squares(func.overloadpacket, args, result)
        if squares is None:
            return result
        noise = torch.randn(result.shape, generator=self._generator, dtype=torch.float64)
        unit = torch.finfo(self._dtype).eps / 2
        moved = result + noise * unit * (squares / 3).sqrt()
        return torch.where(squares.isfinite(), moved, result)

    def _squares(self, operation: Any, args: Any, result: torch.Tensor) -> torch.Tensor | None:
        if self._dtype == torch.bfloat16:
            return result.square() if operation in _ROUNDS else None
        return _squares(operation, args, result)


def logits_of(model: Any, ids: list[int], rounding: Rounding) -> torch.Tensor:
    """Logits [T, V] of a float64 model of transformers, whose attention is eager."""
    with torch.no_grad(), rounding:
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def _squares(operation: Any, args: Any, result: torch.Tensor) -> torch.Tensor | None:
    """The error's variance in unit² / 3; None of an operation that rounds nothing."""
    if operation in _ARITHMETIC:
        return result.square()
    if operation in _FUNCTIONS:
        return 4 * result.square()
    if operation in _GATES:
        return 4 * args[0].square()
    if operation in _PRODUCTS:
        K, left, right = args[-1].shape[-2], args[-2], args[-1]
        return _mean_squares_of_sum(K, torch.matmul(left.square(), right.square()), result)
    if operation in _SUMS:
        K = args[0].numel() / result.numel()
        squares = operation(args[0].square(), *args[1:])
        return _mean_squares_of_sum(K, squares / K if operation is _aten.mean else squares, result)
    if operation is _aten._softmax:
        scores = args[0]
        below = scores.amax(-1, keepdim=True) - scores
        relative = below.square() + 4 + scores.shape[-1] / 3 + 1
        return torch.where(result > 0, relative * result.square(), 0.0)
    return None


def _mean_squares_of_sum(K: float, squares: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return (K / 6 + 1) * squares + K / 3 * total.square()


def squares_of_sum(K: float, squares: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """For `largest_error`, of K products: from the sum of their squares, and their sum."""
    return (2 * K + 1) * squares + K / 3 * total.square()


def largest_error(squares: torch.Tensor) -> torch.Tensor:
    """Nine deviations of a float32 with the variance unit² / 3 * squares."""
    return 9 * FLOAT32_UNIT * (squares / 3).sqrt()


def product_of(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x times weight [N, K] and a bias in float64, and what sums in float32 may lose of it."""
    x, weight = x.double(), weight.double()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
    exact = x @ weight.T + bias
    squares = x.square() @ weight.T.square() + bias.square()
    return exact, largest_error(squares_of_sum(x.shape[1] + 1, squares, exact))


def norm_error(x: torch.Tensor) -> torch.Tensor:
    """Share [..., 1] that RMS norm in float32 loses of rows x: half of what the sum of squares
    loses of itself, and roundings of the mean, the root (twice), the quotient and the weight, which
    may be added to an offset first."""
    squares = x.double().square()
    total = squares.sum(-1, keepdim=True)
    terms = squares.square().sum(-1, keepdim=True)
    lost = largest_error(squares_of_sum(x.shape[-1], terms, total)) / total
    return lost / 2 + 6 * FLOAT32_UNIT
