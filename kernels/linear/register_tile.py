"""Microkernel of bfloat16 products with float32 instructions: one tile, its sums in registers.

Weights are packed in pairs along K: a 32-bit word holds w[2k] in its lower half and w[2k + 1] in
its upper half, so a vector of 16 words becomes two of float32 by a shift and a mask. A row is
summed in the order of K, so its bits depend neither on other rows nor on threads.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from thothy_kernels.numba_simd import cpu_features, vec16
from thothy_kernels.numba_simd.vec16 import NUM_LANES

# Rows and output vectors of a tile. 24 sums, 3 weights and a broadcast fit the 32 registers of
# AVX-512; elsewhere a vector of 16 takes 2 of 16 registers (AVX2) or 4 of 32 (NEON).
TILE_ROWS, TILE_VECTORS = (8, 3) if cpu_features.HAS_WIDE_REGISTERS else (4, 1)
TILE_OUTPUTS = TILE_VECTORS * NUM_LANES

_INDEX = ir.IntType(64)
_INTS = vec16.int_vector_type
_UPPER_HALF = -(1 << 16)


def _add(builder: Any, value: Any, number: int) -> Any:
    return builder.add(value, ir.Constant(_INDEX, number))


def _one_step(builder: Any, x: Any, start: Any, weights: list[Any], sums: list[Any]) -> None:
    """sums[row][vector] += x[start + row] * weights[vector]."""
    for row in range(TILE_ROWS):
        value = builder.load(builder.gep(x, [_add(builder, start, row)]))
        value = vec16.broadcast_scalar(builder, value)
        for place, weight in zip(sums[row], weights, strict=True):
            builder.store(vec16.emit_fma(builder, value, weight, builder.load(place)), place)


@intrinsic
def multiply_tile(
    typingctx: Any, x: Any, x_start: Any, w: Any, w_start: Any, num_pairs: Any, sums: Any
) -> Any:
    """sums [TILE_ROWS, TILE_OUTPUTS] = products over K = 2 num_pairs; all arrays are flat.

    x from x_start on is float32 [K, TILE_ROWS]; w from w_start on is int32 [num_pairs,
    TILE_OUTPUTS].
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of = signature.args
        x, w = (vec16.pointer(context, builder, of[i], args[i], args[i + 1]) for i in (0, 2))
        num_pairs = args[4]
        zero = vec16.constant(0.0)
        # LLVM promotes these stack slots to registers.
        places = [
            [cgutils.alloca_once(builder, vec16.vector_type) for _ in range(TILE_VECTORS)]
            for _ in range(TILE_ROWS)
        ]
        for row in places:
            for place in row:
                builder.store(zero, place)
        with cgutils.for_range(builder, num_pairs) as loop:
            w_at = builder.mul(loop.index, ir.Constant(_INDEX, TILE_OUTPUTS))
            offsets = (_add(builder, w_at, NUM_LANES * vector) for vector in range(TILE_VECTORS))
            addresses = (builder.gep(w, [offset]) for offset in offsets)
            words = [
                builder.load(builder.bitcast(address, _INTS.as_pointer()), align=4)
                for address in addresses
            ]
            x_at = builder.mul(loop.index, ir.Constant(_INDEX, 2 * TILE_ROWS))
            lower = [builder.shl(word, vec16.int_constant(16)) for word in words]
            upper = [builder.and_(word, vec16.int_constant(_UPPER_HALF)) for word in words]
            for half, bits in enumerate((lower, upper)):
                weights = [builder.bitcast(each, vec16.vector_type) for each in bits]
                _one_step(builder, x, _add(builder, x_at, half * TILE_ROWS), weights, places)
        for i, place in enumerate(place for row in places for place in row):
            offset = ir.Constant(_INDEX, NUM_LANES * i)
            target = vec16.pointer(context, builder, of[5], args[5], offset)
            vec16.store_vector(builder, builder.load(place), target, False)
        return context.get_dummy_value()

    flat, start = types.Array(types.float32, 1, "C"), types.intp
    words = types.Array(types.int32, 1, "C")
    return types.void(flat, start, words, start, start, flat), codegen


def _interleaved(builder: Any, a: Any, b: Any) -> Any:
    """Emit a[0], b[0], a[1], b[1], ..."""
    size = a.type.count
    order = [which * size + i for i in range(size) for which in range(2)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 2 * size), order))


@intrinsic
def store_columns(
    typingctx: Any, source: Any, start: Any, stride: Any, last: Any, out: Any, to: Any
) -> Any:
    """out[to + TILE_ROWS k + row] = source[start + stride row + k] for k in 0 .. 15.

    source is bfloat16, and its row `last` is repeated for rows beyond it; out is float32.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, start, stride, last, out, to = args
        of = signature.args
        rows = []
        for row in range(TILE_ROWS):
            row_or_last = ir.Constant(_INDEX, row)
            inside = builder.icmp_signed("<", row_or_last, last)
            row_or_last = builder.select(inside, row_or_last, last)
            offset = builder.add(start, builder.mul(stride, row_or_last))
            address = vec16.pointer(context, builder, of[0], source, offset)
            rows.append(vec16.load_vector(builder, address, True))
        while len(rows) > 1:  # interleave rows i and i + half until one vector is left
            half = len(rows) // 2
            rows = [
                _interleaved(builder, *pair) for pair in zip(rows[:half], rows[half:], strict=True)
            ]
        target = vec16.pointer(context, builder, of[4], out, to)
        builder.store(rows[0], builder.bitcast(target, rows[0].type.as_pointer()), align=4)
        return context.get_dummy_value()

    halves, flat = types.Array(types.uint16, 1, "C"), types.Array(types.float32, 1, "C")
    start = types.intp
    return types.void(halves, start, start, start, flat, start), codegen
