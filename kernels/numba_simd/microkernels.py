"""Microkernels: register-blocked matrix products, transpositions of 16 x 16, and prefetch."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from thothy_kernels.numba_simd import vec16
from thothy_kernels.numba_simd.vec16 import NUM_LANES


def _product(rows: int, vectors: int, b_type: Any = types.float32) -> Any:
    """A product whose rows x vectors accumulators stay in registers."""
    is_bfloat16 = b_type == types.uint16

    def accumulate(
        typingctx: Any,
        a: Any,
        a_start: Any,
        a_stride: Any,
        b: Any,
        b_start: Any,
        b_stride: Any,
        c: Any,
        c_start: Any,
        c_stride: Any,
        inner: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, a_start, a_stride, b, b_start, b_stride, c, c_start, c_stride, inner = args
            of = signature.args

            def place(which: int, array: Any, start: Any, stride: Any, row: Any) -> Any:
                offset = builder.add(start, builder.mul(stride, row))
                return vec16.pointer(context, builder, of[which], array, offset)

            def number(value: int) -> ir.Constant:
                return ir.Constant(inner.type, value)

            targets = [
                builder.gep(place(6, c, c_start, c_stride, number(r)), [number(v * NUM_LANES)])
                for r in range(rows)
                for v in range(vectors)
            ]
            sums = []
            for target in targets:
                slot = cgutils.alloca_once(builder, vec16.vector_type)
                builder.store(vec16.load_vector(builder, target, False), slot)
                sums.append(slot)
            a_rows = [place(0, a, a_start, a_stride, number(r)) for r in range(rows)]
            with cgutils.for_range(builder, inner, intp=inner.type) as loop:
                b_row = place(3, b, b_start, b_stride, loop.index)
                columns = [
                    vec16.load_vector(
                        builder, builder.gep(b_row, [number(v * NUM_LANES)]), is_bfloat16
                    )
                    for v in range(vectors)
                ]
                for r in range(rows):
                    factor = vec16.broadcast_scalar(
                        builder, builder.load(builder.gep(a_rows[r], [loop.index]))
                    )
                    for v in range(vectors):
                        slot = sums[r * vectors + v]
                        value = vec16.emit_fma(builder, factor, columns[v], builder.load(slot))
                        builder.store(value, slot)
            for slot, target in zip(sums, targets, strict=True):
                vec16.store_vector(builder, builder.load(slot), target, False)
            return context.get_dummy_value()

        array = types.Array(types.float32, 1, "C")
        place3 = (array, types.intp, types.intp)
        b_place = (types.Array(b_type, 1, "C"), types.intp, types.intp)
        return types.void(*place3, *b_place, *place3, types.intp), codegen

    accumulate.__name__ = f"accumulate_{rows}x{vectors}"
    accumulate.__doc__ = f"""c[{rows}, {16 * vectors}] += a[{rows}, inner] b[inner, {16 * vectors}].

    Each matrix is float32 (b is bfloat16 where the name says so) and is given as an array, the
    offset of its first element, and the stride of its rows. An element of c is summed in the order
    of `inner` by fused multiply-adds: the same in a product of any size.
    """
    return intrinsic(accumulate)


accumulate_4x4, accumulate_4x2, accumulate_4x1 = _product(4, 4), _product(4, 2), _product(4, 1)
accumulate_bfloat16_4x4 = _product(4, 4, types.uint16)
accumulate_bfloat16_2x4 = _product(2, 4, types.uint16)
accumulate_bfloat16_1x4 = _product(1, 4, types.uint16)


@intrinsic
def sum_rows(typingctx: Any, square: Any) -> Any:
    """The sums of 16 rows of 16 float32, in the lanes of one vector.

    Within a row, neighbours are added first, then neighbours of those sums, and so on.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = []
        for row in range(NUM_LANES):
            offset = ir.Constant(ir.IntType(64), NUM_LANES * row)
            address = vec16.pointer(context, builder, signature.args[0], args[0], offset)
            rows.append(vec16.load_vector(builder, address, False))
        orders = [
            ir.Constant(vec16.int_vector_type, list(range(parity, 2 * NUM_LANES, 2)))
            for parity in (0, 1)
        ]
        while len(rows) > 1:
            halves = [
                [builder.shuffle_vector(a, b, order) for order in orders]
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
            rows = [builder.fadd(even, odd) for even, odd in halves]
        return rows[0]

    return vec16.vec16_type(types.Array(types.float32, 1, "C")), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose 16 vectors of 16 by swapping off-diagonal blocks of 1, 2, 4 and 8."""
    for size in (1, 2, 4, 8):
        upper = [j if not j & size else NUM_LANES + j - size for j in range(NUM_LANES)]
        lower = [j + size if not j & size else NUM_LANES + j for j in range(NUM_LANES)]
        for i in range(NUM_LANES):
            if i & size:
                continue
            pair = rows[i], rows[i + size]
            rows[i] = builder.shuffle_vector(*pair, ir.Constant(vec16.int_vector_type, upper))
            rows[i + size] = builder.shuffle_vector(
                *pair, ir.Constant(vec16.int_vector_type, lower)
            )
    return rows


@intrinsic
def transpose(
    typingctx: Any,
    source: Any,
    starts: Any,
    first: Any,
    column: Any,
    target: Any,
    target_start: Any,
    target_stride: Any,
) -> Any:
    """target[target_start + i * target_stride + j] = source[starts[first + j] + column + i].

    For i and j in 0 .. 15: 16 rows of `source` (float32 or bfloat16) at any offsets become 16
    lanes of `target` (float32). `starts` is int64.
    """
    vec16.is_bfloat16(source)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = [
            vec16.load_vector(builder, address, vec16.is_bfloat16(signature.args[0]))
            for address in _addresses(context, builder, signature, args)
        ]
        for i, row in enumerate(_transposed(builder, rows)):
            _store_row(context, builder, signature, args, i, row)
        return context.get_dummy_value()

    return _transposition(source), codegen


@intrinsic
def transpose_bf16(
    typingctx: Any,
    source: Any,
    starts: Any,
    first: Any,
    column: Any,
    target: Any,
    target_start: Any,
    target_stride: Any,
) -> Any:
    """`transpose` of bfloat16 for i in 0 .. 31: moves pairs as units, converts to float32 last."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = vec16.int_vector_type.as_pointer()
        rows = [
            builder.load(builder.bitcast(address, pairs), align=2)
            for address in _addresses(context, builder, signature, args)
        ]
        for i, row in enumerate(_transposed(builder, rows)):
            even = builder.shl(row, vec16.int_constant(16))
            odd = builder.and_(row, vec16.int_constant(-65536))
            for target_row, bits in ((2 * i, even), (2 * i + 1, odd)):
                value = builder.bitcast(bits, vec16.vector_type)
                _store_row(context, builder, signature, args, target_row, value)
        return context.get_dummy_value()

    return _transposition(types.Array(types.uint16, 1, "C")), codegen


@intrinsic
def transpose_square(
    typingctx: Any,
    square: Any,
    square_start: Any,
    target: Any,
    start: Any,
    stride: Any,
    factor: Any,
) -> Any:
    """target[start + i * stride + j] = factor * square[square_start + 16 * j + i] for i and j in
    0 .. 15."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        square, square_start, target, start, stride, factor = args
        of = signature.args
        rows = []
        for j in range(NUM_LANES):
            offset = builder.add(square_start, ir.Constant(start.type, NUM_LANES * j))
            address = vec16.pointer(context, builder, of[0], square, offset)
            rows.append(vec16.load_vector(builder, address, False))
        for i, row in enumerate(_transposed(builder, rows)):
            offset = builder.add(start, builder.mul(stride, ir.Constant(stride.type, i)))
            address = vec16.pointer(context, builder, of[2], target, offset)
            vec16.store_vector(builder, builder.fmul(row, factor), address, False)
        return context.get_dummy_value()

    array = types.Array(types.float32, 1, "C")
    return types.void(array, types.intp, array, types.intp, types.intp, vec16.vec16_type), codegen


def _transposition(source: Any) -> Any:
    starts, target = types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C")
    place = (target, types.intp, types.intp)
    return types.void(source, starts, types.intp, types.intp, *place)


def _addresses(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """Addresses of the 16 source rows of a transposition."""
    source, starts, first, column = args[:4]
    addresses = []
    for j in range(NUM_LANES):
        which = builder.add(first, ir.Constant(first.type, j))
        start = builder.load(vec16.pointer(context, builder, signature.args[1], starts, which))
        offset = builder.add(start, column)
        addresses.append(vec16.pointer(context, builder, signature.args[0], source, offset))
    return addresses


def _store_row(context: Any, builder: Any, signature: Any, args: Any, row: int, value: Any) -> None:
    target, start, stride = args[4:]
    offset = builder.add(start, builder.mul(stride, ir.Constant(stride.type, row)))
    address = vec16.pointer(context, builder, signature.args[4], target, offset)
    vec16.store_vector(builder, value, address, False)


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Prefetch the cache line at an int64 address; never faults."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            "llvm.prefetch.p0",
        )
        # For reading, into the level 2 cache, data.
        hints = [ir.Constant(number, hint) for hint in (0, 2, 1)]
        builder.call(function, [builder.inttoptr(args[0], byte), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
