"""Pairs of bfloat16: the operand layout of AMX (`amx`) and of dot products (vdpbf16ps).

A vector of pairs has 32 bfloat16, two for each of 16 lanes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from thothy_kernels.numba_simd import cpu_features, vec16
from thothy_kernels.numba_simd.vec16 import NUM_LANES

_SHORT = ir.IntType(16)
_PAIRS = ir.VectorType(_SHORT, 2 * NUM_LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat type, which llvmlite does not define."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BFLOATS = ir.VectorType(_BFloat(), 2 * NUM_LANES)
_ARRAY = types.Array(types.uint16, 1, "C")


def _vector_at(builder: Any, address: Any) -> Any:
    return builder.bitcast(address, _PAIRS.as_pointer())


@intrinsic
def interleave(typingctx: Any, source: Any, first: Any, second: Any, target: Any, to: Any) -> Any:
    """target[to + 2i + (0, 1)] = source[(first, second) + i] for i in 0 .. 31."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, first, second, target, to = args
        of = signature.args
        a, b = (
            builder.load(
                _vector_at(builder, vec16.pointer(context, builder, of[0], source, offset)), align=2
            )
            for offset in (first, second)
        )
        for half in range(2):
            order = [
                which * 2 * NUM_LANES + half * NUM_LANES + i
                for i in range(NUM_LANES)
                for which in range(2)
            ]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
            offset = builder.add(to, ir.Constant(to.type, 2 * NUM_LANES * half))
            at = _vector_at(builder, vec16.pointer(context, builder, of[3], target, offset))
            builder.store(builder.shuffle_vector(a, b, mask), at, align=2)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, types.intp, _ARRAY, types.intp), codegen


@intrinsic
def add_products(typingctx: Any, total: Any, a: Any, a_start: Any, b: Any, b_start: Any) -> Any:
    """total[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1] in lane i, a and b from a start on.

    A processor without `cpu_features.HAS_BF16_DOT` adds nothing: callers test it first.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, a, a_start, b, b_start = args
        if not cpu_features.HAS_BF16_DOT:
            return total
        of = signature.args
        operands = [
            builder.load(
                builder.bitcast(
                    vec16.pointer(context, builder, of[which], array, start), _BFLOATS.as_pointer()
                ),
                align=2,
            )
            for which, array, start in ((1, a, a_start), (3, b, b_start))
        ]
        vector = vec16.vector_type
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector, _BFLOATS, _BFLOATS]),
            "llvm.x86.avx512bf16.dpbf16ps.512",
        )
        return builder.call(function, [total, *operands])

    place = (_ARRAY, types.intp)
    return vec16.vec16_type(vec16.vec16_type, *place, *place), codegen
