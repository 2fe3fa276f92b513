"""Raw memory access for workers: arrays from addresses, and an atomic counter."""

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from thothy_kernels.numba_simd.functions import inlined


def _pointer_to(name: str, doc: str, numba_type: Any) -> Any:
    def typed(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(numba_type)(types.int64), codegen

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


_float32_pointer = _pointer_to("_float32_pointer", "An address as float32*.", types.float32)
_float64_pointer = _pointer_to("_float64_pointer", "An address as float64*.", types.float64)
_uint16_pointer = _pointer_to("_uint16_pointer", "An address as uint16*.", types.uint16)
_int32_pointer = _pointer_to("_int32_pointer", "An address as int32*.", types.int32)
_int64_pointer = _pointer_to("_int64_pointer", "An address as int64*.", types.int64)


@inlined
def float32_at(address: int, size: int) -> Any:
    """Memory at an address as float32 [size]."""
    return carray(_float32_pointer(address), (size,))


@inlined
def float64_at(address: int, size: int) -> Any:
    """Memory at an address as float64 [size]."""
    return carray(_float64_pointer(address), (size,))


@inlined
def bfloat16_at(address: int, size: int) -> Any:
    """Memory at an address as bfloat16 [size], in the uint16 that `vec16` loads and stores."""
    return carray(_uint16_pointer(address), (size,))


@inlined
def int32_at(address: int, size: int) -> Any:
    """Memory at an address as int32 [size]."""
    return carray(_int32_pointer(address), (size,))


@inlined
def int64_at(address: int, size: int) -> Any:
    """Memory at an address as int64 [size]."""
    return carray(_int64_pointer(address), (size,))


@intrinsic
def fetch_add(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Add value to array[offset], int64, atomically, and return the old value."""
    if array not in (types.Array(types.int64, 1, "C"), types.CPointer(types.int64)):
        raise TypingError(f"fetch_add needs int64 memory: {array}")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory, offset, value = args
        if isinstance(signature.args[0], types.Array):
            memory = context.make_array(signature.args[0])(context, builder, memory).data
        return builder.atomic_rmw("add", builder.gep(memory, [offset]), value, "seq_cst")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def float32_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 in the low 32 bits of an int64; `thread_pool.float_bits` is the inverse."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), codegen
