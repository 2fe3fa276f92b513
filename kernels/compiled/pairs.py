"""bfloat16 in pairs: how products of pairs (`matrix_tiles`, vdpbf16ps) want one operand to lie.

A vector of pairs has 32 bfloat16: two for each of 16 lanes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from thothy_kernels.compiled import lanes
from thothy_kernels.compiled.lanes import NUM_LANES

_SHORT = ir.IntType(16)
_PAIRS = ir.VectorType(_SHORT, 2 * NUM_LANES)
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
                _vector_at(builder, lanes.pointer(context, builder, of[0], source, offset)), align=2
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
            at = _vector_at(builder, lanes.pointer(context, builder, of[3], target, offset))
            builder.store(builder.shuffle_vector(a, b, mask), at, align=2)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, types.intp, _ARRAY, types.intp), codegen
