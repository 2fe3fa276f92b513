"""Byte operations on `vec16`: the largest magnitude, and rounding to 8-bit whole numbers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from thothy_kernels.numba_simd import vec16

_BYTES = ir.VectorType(ir.IntType(8), vec16.NUM_LANES)
_byte_array = types.Array(types.uint8, 1, "C")


@intrinsic
def larger_magnitude(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of a and |b| in each lane, for a >= 0; NaN if either is NaN.

    Compares bits as integers: for floats without a sign the order is the same, with NaN highest.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.bitcast(value, vec16.int_vector_type) for value in args)
        b = builder.and_(b, vec16.int_constant(0x7FFFFFFF))
        larger = builder.select(builder.icmp_signed(">", b, a), b, a)
        return builder.bitcast(larger, vec16.vector_type)

    return vec16.vec16_type(vec16.vec16_type, vec16.vec16_type), codegen


@intrinsic
def largest_magnitude(typingctx: Any, value: Any) -> Any:
    """The largest lane of a value >= 0; NaN if a lane is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.IntType(32)
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(whole, [vec16.int_vector_type]),
            "llvm.vector.reduce.umax.v16i32",
        )
        bits = builder.call(reduce, [builder.bitcast(args[0], vec16.int_vector_type)])
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(vec16.vec16_type), codegen


def _rounded(builder: Any, value: Any, shift: Any) -> Any:
    """Emit the nearest whole numbers, ties to even, plus `shift`, as 16 bytes."""
    whole = builder.fptosi(vec16.call(builder, "llvm.rint", value), vec16.int_vector_type)
    # `vec16` broadcasts float32 only, so the integer is passed as the bits of one.
    shift = builder.trunc(shift, ir.IntType(32))
    shifts = vec16.broadcast_scalar(builder, builder.bitcast(shift, ir.FloatType()))
    whole = builder.add(whole, builder.bitcast(shifts, vec16.int_vector_type))
    return builder.trunc(whole, _BYTES)


@intrinsic
def store_bytes(typingctx: Any, array: Any, offset: Any, value: Any, shift: Any) -> Any:
    """array[offset : offset + 16] = value rounded to whole numbers, plus shift, modulo 256."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, offset, value, shift = args
        target = vec16.pointer(context, builder, signature.args[0], array, offset)
        rounded = _rounded(builder, value, shift)
        builder.store(rounded, builder.bitcast(target, _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(_byte_array, types.intp, vec16.vec16_type, types.intp), codegen


@intrinsic
def store_first_bytes(
    typingctx: Any, array: Any, offset: Any, value: Any, shift: Any, count: Any
) -> Any:
    """`store_bytes` of the first `count` lanes, count <= 16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, offset, value, shift, count = args
        on_stack = cgutils.alloca_once(builder, _BYTES, zfill=False)
        builder.store(_rounded(builder, value, shift), on_stack)
        target = vec16.pointer(context, builder, signature.args[0], array, offset)
        cgutils.raw_memcpy(builder, target, on_stack, count, 1)
        return context.get_dummy_value()

    return types.void(_byte_array, types.intp, vec16.vec16_type, types.intp, types.intp), codegen


@intrinsic
def bytes_at(typingctx: Any, address: Any) -> Any:
    """An address as uint8*, for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.int64), codegen
