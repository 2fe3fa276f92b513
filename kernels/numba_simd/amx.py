"""Intel AMX: matrix products of bfloat16 in tile registers.

There are eight tiles of 16 rows of 64 bytes. A product adds a[16, 32] b[32, 16] of bfloat16 to
c[16, 16] of float32, where b is stored in pairs: row i holds b[2i, j], b[2i + 1, j] for j in
0 .. 15. Each element of c is summed in the order of b's rows. Tile numbers are compile-time
constants. On a processor without AMX these functions emit nothing: callers test
`cpu_features.HAS_AMX` first.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from thothy_kernels.numba_simd import cpu_features, vec16

TILE_ROWS = 16
_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_CONFIG_BYTES = 64


def _emit(builder: Any, name: str, *args: Any) -> None:
    if not cpu_features.HAS_AMX:
        return
    function_type = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.x86.{name}")
    builder.call(function, args)


def _literal(value: Any) -> int:
    if not isinstance(value, types.IntegerLiteral):
        raise RequireLiteralValue("a tile number must be a constant")
    return int(value.literal_value)


def _number(value: int) -> ir.Constant:
    return ir.Constant(_BYTE, value)


def _config() -> bytes:
    """Tile configuration: palette 1, all tiles in full size."""
    config = bytearray(_CONFIG_BYTES)
    config[0] = 1
    for tile in range(8):
        config[16 + 2 * tile] = 64  # bytes of a row
        config[48 + tile] = TILE_ROWS
    return bytes(config)


def _as_bytes(builder: Any, array: Any) -> Any:
    return builder.bitcast(array, _POINTER)


@intrinsic
def configure(typingctx: Any, saved: Any) -> Any:
    """Configure the calling thread's tiles; saved[0:8], int64, receives the old configuration."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(_LONG, 0)
        at = vec16.pointer(context, builder, signature.args[0], args[0], zero)
        _emit(builder, "sttilecfg", _as_bytes(builder, at))
        config = cgutils.global_constant(
            builder, "tile_config", cgutils.make_bytearray(bytearray(_config()))
        )
        _emit(builder, "ldtilecfg", _as_bytes(builder, config))
        return context.get_dummy_value()

    return types.void(saved), codegen


@intrinsic
def restore(typingctx: Any, saved: Any) -> Any:
    """Restore the configuration from before `configure`: other code on this thread relies on it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(_LONG, 0)
        at = vec16.pointer(context, builder, signature.args[0], args[0], zero)
        palette = builder.and_(builder.load(at), ir.Constant(_LONG, 255))
        was_used = builder.icmp_unsigned("!=", palette, zero)
        with builder.if_else(was_used) as (used, unused):
            with used:
                _emit(builder, "ldtilecfg", _as_bytes(builder, at))
            with unused:
                _emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(saved), codegen


@intrinsic
def clear(typingctx: Any, tile: Any) -> Any:
    """tile = 0."""
    number = _literal(tile)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _emit(builder, "tilezero", _number(number))
        return context.get_dummy_value()

    return types.void(tile), codegen


def _transfer(name: str, instruction: str, doc: str) -> Any:
    def typed(typingctx: Any, tile: Any, array: Any, offset: Any, stride: Any) -> Any:
        number = _literal(tile)
        size = {types.float32: 4, types.uint16: 2}[array.dtype]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = vec16.pointer(context, builder, signature.args[1], args[1], args[2])
            num_bytes = builder.mul(args[3], ir.Constant(_LONG, size))
            _emit(builder, instruction, _number(number), _as_bytes(builder, at), num_bytes)
            return context.get_dummy_value()

        return types.void(tile, array, types.intp, types.intp), codegen

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


load = _transfer(
    "load", "tileloadd64", "tile = 16 rows of 64 bytes, `stride` elements apart, from an offset on."
)
store = _transfer("store", "tilestored64", "The inverse of `load`: tile to memory.")


@intrinsic
def multiply_add(typingctx: Any, c: Any, a: Any, b: Any) -> Any:
    """c += a b for three tiles."""
    numbers = _literal(c), _literal(a), _literal(b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _emit(builder, "tdpbf16ps", *map(_number, numbers))
        return context.get_dummy_value()

    return types.void(c, a, b), codegen
