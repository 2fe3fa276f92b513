"""The exponential function of a `vec16` vector."""

from typing import Any

from numba.extending import intrinsic

from thothy_kernels.numba_simd import vec16

# exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n ln 2 in two parts (Cody and Waite), exp(r)
# by the Taylor series to r^7 / 5040, |r| <= ln 2 / 2: the error is below 1 unit in the last place.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06
_SERIES = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
_LOWEST, _HIGHEST = -87.33654, 88.72283


def _exponential(builder: Any, x: Any) -> Any:
    low = builder.fcmp_ordered("<", x, vec16.constant(_LOWEST))
    high = builder.fcmp_ordered(">", x, vec16.constant(_HIGHEST))
    is_nan = builder.fcmp_unordered("uno", x, x)
    inside = builder.select(builder.or_(builder.or_(low, high), is_nan), vec16.constant(0.0), x)
    n = vec16.call(builder, "llvm.rint", builder.fmul(inside, vec16.constant(1.4426950408889634)))
    r = vec16.emit_fma(builder, n, vec16.constant(-_LN2_HIGH), inside)
    r = vec16.emit_fma(builder, n, vec16.constant(-_LN2_LOW), r)
    series = vec16.constant(_SERIES[0])
    for coefficient in _SERIES[1:]:
        series = vec16.emit_fma(builder, series, r, vec16.constant(coefficient))
    # Two factors, because 2^128, which the highest x need, exceeds float32.
    whole = builder.fptosi(n, vec16.int_vector_type)
    half = builder.ashr(whole, vec16.int_constant(1))
    result = builder.fmul(series, _power_of_two(builder, half))
    result = builder.fmul(result, _power_of_two(builder, builder.sub(whole, half)))
    result = builder.select(low, vec16.constant(0.0), result)
    result = builder.select(high, vec16.constant(float("inf")), result)
    return builder.select(is_nan, x, result)


def _power_of_two(builder: Any, exponent: Any) -> Any:
    biased = builder.add(exponent, vec16.int_constant(127))
    return builder.bitcast(builder.shl(biased, vec16.int_constant(23)), vec16.vector_type)


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """e^x in each lane, within 1 ulp; 0 below -87.33, infinity above 88.72, NaN for NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exponential(builder, args[0])

    return vec16.vec16_type(vec16.vec16_type), codegen
