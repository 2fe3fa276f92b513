"""The exponential function on `lanes`."""

from typing import Any

from numba.extending import intrinsic

from thothy_kernels.compiled import lanes

# exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n ln 2 in two parts (Cody and Waite), exp(r)
# by the Taylor series to r^7 / 5040, |r| <= ln 2 / 2: the error is below 1 unit in the last place.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06
_SERIES = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
_LOWEST, _HIGHEST = -87.33654, 88.72283


def _exponential(builder: Any, x: Any) -> Any:
    low = builder.fcmp_ordered("<", x, lanes.constant(_LOWEST))
    high = builder.fcmp_ordered(">", x, lanes.constant(_HIGHEST))
    is_nan = builder.fcmp_unordered("uno", x, x)
    inside = builder.select(builder.or_(builder.or_(low, high), is_nan), lanes.constant(0.0), x)
    n = lanes.call(builder, "llvm.rint", builder.fmul(inside, lanes.constant(1.4426950408889634)))
    r = lanes.fused(builder, n, lanes.constant(-_LN2_HIGH), inside)
    r = lanes.fused(builder, n, lanes.constant(-_LN2_LOW), r)
    series = lanes.constant(_SERIES[0])
    for coefficient in _SERIES[1:]:
        series = lanes.fused(builder, series, r, lanes.constant(coefficient))
    # Two factors: 2^128, which the highest x need, is no float32.
    whole = builder.fptosi(n, lanes.int_vector_type)
    half = builder.ashr(whole, lanes.int_constant(1))
    result = builder.fmul(series, _power_of_two(builder, half))
    result = builder.fmul(result, _power_of_two(builder, builder.sub(whole, half)))
    result = builder.select(low, lanes.constant(0.0), result)
    result = builder.select(high, lanes.constant(float("inf")), result)
    return builder.select(is_nan, x, result)


def _power_of_two(builder: Any, exponent: Any) -> Any:
    biased = builder.add(exponent, lanes.int_constant(127))
    return builder.bitcast(builder.shl(biased, lanes.int_constant(23)), lanes.vector_type)


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """e^x lane by lane; 0 below -87.33, infinity above 88.72, NaN for NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exponential(builder, args[0])

    return lanes.lanes_type(lanes.lanes_type), codegen
