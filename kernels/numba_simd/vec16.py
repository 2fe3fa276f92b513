"""Vectors of 16 float32 for Numba: a type and the operations that kernels need.

LLVM lowers them to one AVX-512 register, two of AVX2, or four of NEON; results are the same, since
lanes are independent and reductions over lanes have a fixed order. Offsets count elements and are
not checked. An array of uint16 holds bfloat16: loads convert to float32, stores round to nearest,
ties to even.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

NUM_LANES = 16

_F32 = ir.FloatType()
_I16, _I32 = ir.IntType(16), ir.IntType(32)
vector_type = _FLOATS = ir.VectorType(_F32, NUM_LANES)
int_vector_type = _INTS = ir.VectorType(_I32, NUM_LANES)
_SHORTS = ir.VectorType(_I16, NUM_LANES)


class Vec16Type(types.Type):
    """Numba's view of a vector of 16 float32."""

    def __init__(self) -> None:
        super().__init__(name="Vec16")


vec16_type = Vec16Type()


@register_model(Vec16Type)
class _Vec16Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


def constant(value: float) -> ir.Constant:
    """A compile-time vector with `value` in every lane."""
    return ir.Constant(_FLOATS, [float(np.float32(value))] * NUM_LANES)


def int_constant(value: int) -> ir.Constant:
    """A compile-time vector of int32 with `value` in every lane."""
    return ir.Constant(_INTS, [value] * NUM_LANES)


def call(builder: Any, name: str, *args: Any) -> Any:
    """Emit a call of an LLVM intrinsic whose arguments and result share one vector type."""
    vector = args[0].type
    letter = "f32" if vector.element == _F32 else "i32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * len(args)), f"{name}.v16{letter}"
    )
    return builder.call(function, args)


def pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """The address of array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def is_bfloat16(array_type: Any) -> bool:
    """True for an array of uint16, False for one of float32; TypingError for any other type."""
    if not isinstance(array_type, types.Array) or array_type.dtype not in (
        types.float32,
        types.uint16,
    ):
        raise TypingError(f"an array of float32 or of uint16 (bfloat16) is needed: {array_type}")
    return bool(array_type.dtype == types.uint16)


def load_vector(builder: Any, address: Any, bfloat16: bool) -> Any:
    """Emit a load of 16 elements at an address, as float32."""
    if not bfloat16:
        return builder.load(builder.bitcast(address, _FLOATS.as_pointer()), align=4)
    narrow = builder.load(builder.bitcast(address, _SHORTS.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(narrow, _INTS), int_constant(16)), _FLOATS)


def _round_to_bfloat16(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, int_constant(16)), int_constant(1))
    rounded = builder.add(builder.add(bits, int_constant(0x7FFF)), odd)
    # The carry would turn some NaNs into infinity: every NaN becomes the one quiet NaN instead.
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, int_constant(0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, int_constant(16)), _SHORTS)


def store_vector(builder: Any, value: Any, address: Any, bfloat16: bool) -> None:
    """Emit a store of 16 elements to an address."""
    if not bfloat16:
        builder.store(value, builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        return
    narrow = _round_to_bfloat16(builder, value)
    builder.store(narrow, builder.bitcast(address, _SHORTS.as_pointer()), align=2)


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """array[offset : offset + 16] of a contiguous array, as float32."""
    bfloat16 = is_bfloat16(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load_vector(builder, pointer(context, builder, signature.args[0], *args), bfloat16)

    return vec16_type(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """array[offset : offset + 16] = value."""
    bfloat16 = is_bfloat16(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1])
        store_vector(builder, args[2], address, bfloat16)
        return context.get_dummy_value()

    return types.void(array, types.intp, vec16_type), codegen


def _stack_vector(builder: Any, bfloat16: bool) -> tuple[Any, Any]:
    """A stack slot for 16 elements, and the bytes of one element."""
    vector = _SHORTS if bfloat16 else _FLOATS
    return cgutils.alloca_once(builder, vector, zfill=False), ir.Constant(
        ir.IntType(64), 2 if bfloat16 else 4
    )


@intrinsic
def element(typingctx: Any, array: Any, offset: Any) -> Any:
    """array[offset] as a float32."""
    bfloat16 = is_bfloat16(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer(context, builder, signature.args[0], *args))
        if bfloat16:
            value = builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16))
            value = builder.bitcast(value, _F32)
        return value

    return types.float32(array, types.intp), codegen


@intrinsic
def load_first(typingctx: Any, array: Any, offset: Any, count: Any) -> Any:
    """array[offset : offset + count] in the first lanes, count <= 16; 0 in the others."""
    bfloat16 = is_bfloat16(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        on_stack, size = _stack_vector(builder, bfloat16)
        builder.store(ir.Constant(on_stack.type.pointee, None), on_stack)
        source = pointer(context, builder, signature.args[0], args[0], args[1])
        cgutils.raw_memcpy(builder, on_stack, source, builder.mul(args[2], size), 1)
        return load_vector(builder, on_stack, bfloat16)

    return vec16_type(array, types.intp, types.intp), codegen


@intrinsic
def store_first(typingctx: Any, array: Any, offset: Any, value: Any, count: Any) -> Any:
    """array[offset : offset + count] = the first lanes of value, count <= 16."""
    bfloat16 = is_bfloat16(array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        on_stack, size = _stack_vector(builder, bfloat16)
        store_vector(builder, args[2], on_stack, bfloat16)
        target = pointer(context, builder, signature.args[0], args[0], args[1])
        cgutils.raw_memcpy(builder, target, on_stack, builder.mul(args[3], size), 1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vec16_type, types.intp), codegen


def broadcast_scalar(builder: Any, scalar: Any) -> Any:
    """Emit a vector with a float32 in every lane."""
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        first, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * NUM_LANES)
    )


@intrinsic
def broadcast(typingctx: Any, scalar: Any) -> Any:
    """A vector with a float32 in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return broadcast_scalar(builder, args[0])

    return vec16_type(types.float32), codegen


def _binary(name: str, doc: str, emit: Any) -> Any:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *args)

        return vec16_type(vec16_type, vec16_type), codegen

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


add = _binary("add", "a + b, lane by lane.", lambda builder, a, b: builder.fadd(a, b))
subtract = _binary("subtract", "a - b, lane by lane.", lambda builder, a, b: builder.fsub(a, b))
multiply = _binary("multiply", "a * b, lane by lane.", lambda builder, a, b: builder.fmul(a, b))
divide = _binary("divide", "a / b, lane by lane.", lambda builder, a, b: builder.fdiv(a, b))
maximum = _binary("maximum", "The larger of a and b, a where b is NaN.", _maximum)


flag_nan = _binary(
    "flag_nan",
    "1 where b is NaN, a elsewhere.",
    lambda builder, a, b: builder.select(builder.fcmp_unordered("uno", b, b), constant(1.0), a),
)


@intrinsic
def any_below(typingctx: Any, a: Any, b: Any) -> Any:
    """True if a < b in any lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        below = builder.bitcast(builder.fcmp_ordered("<", *args), _I16)
        return builder.icmp_unsigned("!=", below, ir.Constant(_I16, 0))

    return types.boolean(vec16_type, vec16_type), codegen


def emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once."""
    return call(builder, "llvm.fma", a, b, c)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once, lane by lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_fma(builder, *args)

    return vec16_type(vec16_type, vec16_type, vec16_type), codegen


def _fold(builder: Any, value: Any, emit: Any) -> Any:
    """Reduce over lanes: i with i + 8, then i + 4, i + 2, i + 1, on every machine."""
    for distance in (8, 4, 2, 1):
        order = [(lane + distance) % NUM_LANES for lane in range(NUM_LANES)]
        rotated = builder.shuffle_vector(value, value, ir.Constant(_INTS, order))
        value = emit(builder, value, rotated)
    return builder.extract_element(value, ir.Constant(_I32, 0))


def _reduction(name: str, doc: str, emit: Any) -> Any:
    def typed(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _fold(builder, args[0], emit)

        return types.float32(vec16_type), codegen

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


reduce_add = _reduction("reduce_add", "Sum of the lanes.", lambda builder, a, b: builder.fadd(a, b))
reduce_max = _reduction("reduce_max", "Maximum of the lanes.", _maximum)


@intrinsic
def first_lanes(typingctx: Any, value: Any, count: Any, otherwise: Any) -> Any:
    """value in lanes 0 .. count - 1, the float32 `otherwise` in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, count, otherwise = args
        numbers = ir.Constant(_INTS, list(range(NUM_LANES)))
        # A count beyond 16 must not wrap when it is narrowed.
        limit = ir.Constant(count.type, NUM_LANES)
        count = builder.select(builder.icmp_signed("<", count, limit), count, limit)
        as_float = broadcast_scalar(builder, builder.bitcast(builder.trunc(count, _I32), _F32))
        inside = builder.icmp_signed("<", numbers, builder.bitcast(as_float, _INTS))
        return builder.select(inside, value, broadcast_scalar(builder, otherwise))

    return vec16_type(vec16_type, types.intp, types.float32), codegen
