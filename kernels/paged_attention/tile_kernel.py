"""One item of the work list: the queries of a tile against spans of positions.

Per span: pack 64 keys at a time, transposed and widened, and multiply by the rows of the tile;
softmax of each row over what it sees; pack 64 values at a time and multiply by the weights. Both
products run over packed tiles of the level 1 cache (`tiles.accumulate_*`). Each element of a row
gets its summands one by one in the order of d, or of the position, and no summand for a position
that the row does not see: the arithmetic of a row does not depend on the other rows of its tile.
"""

import numpy as np

from thothy_kernels.compiled import lanes, memory, tiles
from thothy_kernels.compiled.functions import inlined, worker
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.work_list import (
    END_SPAN,
    FIRST_QUERY,
    FIRST_SPAN,
    HEAD,
    NUM_QUERIES,
    NUM_SPANS,
    PARTIAL,
    SEQ,
    TILE,
)

# Keys packed at a time: with D = 128 as float32 they are 32 KB, within a level 1 cache of 48 KB.
_KEYS = 64
_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)

# Where the integers and addresses of a launch stand in its argument array.
(
    _NEXT_ITEM,
    _NEXT_WORKER,
    _NUM_ITEMS,
    _NUM_WORKERS,
    _ROWS,
    _PER_WORKER,
    _SCALE,
    _H,
    _K,
    _P,
    _D,
    _M,
    _Q_STRIDE,
    _T,
    _CACHE_SIZE,
    _S,
    _NUM_PARTIALS,
    _NUM_FINISHED,
    _ITEMS,
    _Q,
    _K_CACHE,
    _V_CACHE,
    _OUT,
    _TABLES,
    _CU_SEQLENS,
    _CONTEXT_LENS,
    _SCRATCH,
    _FINISHED,
    _IS_FLOAT32,
) = range(29)


def scratch_size(rows: int, D: int) -> int:
    """float32s that one thread needs: see `run_items` for what they are."""
    width = -(-D // 16) * 16
    return 3 * rows * width + rows * SPAN + 2 * _KEYS * width + 4 * rows + 2 * SPAN


def partial_size(rows: int, D: int) -> int:
    """float32s of one stored span: weighted values, maxima, sums."""
    return rows * (-(-D // 16) * 16) + 2 * rows


@inlined
def _load_queries(q, queries, first_row, num_rows, head, G, D, stride, scale):  # type: ignore[no-untyped-def]
    """queries[row] = scale * q, zeros in what fills the last four rows."""
    width = (D + 15) // 16 * 16
    factor = lanes.spread(scale)
    for row in range(num_rows):
        source = (first_row + row // G) * stride + (head * G + row % G) * D
        for d in range(0, D, 16):
            if d + 16 <= D:
                value = lanes.load(q, source + d)
            else:
                value = lanes.load_first(q, source + d, D - d)
            lanes.store(queries, row * width + d, lanes.multiply(value, factor))
    for i in range(num_rows * width, (num_rows + 3) // 4 * 4 * width, 16):
        lanes.store(queries, i, lanes.spread(_ZERO))


@inlined
def _locate_keys(starts, table, begin, num_keys, head, K, P, D):  # type: ignore[no-untyped-def]
    """Where the keys (and values) of a span start in the caches.

    Up to a multiple of 16 the last key is repeated: packing goes by 16, and what lies behind the
    last key must not be read.
    """
    position = begin
    key = 0
    while key < num_keys:
        offset = position % P
        run = min(P - offset, num_keys - key)
        start = ((table[position // P] * K + head) * P + offset) * D
        for i in range(run):
            starts[key + i] = start + i * D
        key += run
        position += run
    for key in range(num_keys, (num_keys + 15) // 16 * 16):
        starts[key] = starts[num_keys - 1]


@inlined
def _score(queries, packed, weights, first, num_rows, D):  # type: ignore[no-untyped-def]
    """weights[row, first + key] = queries[row] . key, for 64 packed keys."""
    width = (D + 15) // 16 * 16
    zero = lanes.spread(_ZERO)
    for row in range(0, num_rows, 4):
        to = row * SPAN + first
        for i in range(4):
            for key in range(0, _KEYS, 16):
                lanes.store(weights, to + i * SPAN + key, zero)
        at = row * width
        tiles.accumulate_4x4(queries, at, width, packed, 0, _KEYS, weights, to, SPAN, D)


@inlined
def _pack_keys(k_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """packed[d, key] float32 of up to 64 keys, by squares of 16 by 16."""
    whole = D // 16 * 16
    for key in range(0, num_keys, 16):
        for d in range(0, whole, 16):
            tiles.transpose(k_cache, starts, first + key, d, packed, d * _KEYS + key, _KEYS)
        for d in range(whole, D):
            for i in range(16):
                packed[d * _KEYS + key + i] = lanes.element(k_cache, starts[first + key + i] + d)


@inlined
def _pack_keys_bfloat16(k_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """The same by rectangles of 16 keys by 32, which needs half the work."""
    if D % 32:
        _pack_keys(k_cache, starts, first, num_keys, packed, D)
        return
    for key in range(0, num_keys, 16):
        for d in range(0, D, 32):
            tiles.transpose_pairs(k_cache, starts, first + key, d, packed, d * _KEYS + key, _KEYS)


@inlined
def _soften(weights, part, sees, num_rows, G, maxima, rows):  # type: ignore[no-untyped-def]
    """Scores to exp(score - maximum) for what each row sees; the maximum and the sum to `part`.

    A row that sees nothing of the span gets the maximum -infinity, and is left out of the merge.
    """
    for row in range(num_rows):
        visible = min(SPAN, sees + row // G)
        part[maxima + row] = _MINUS_INFINITY
        part[maxima + rows + row] = _ZERO
        if visible <= 0:
            continue
        highest = lanes.spread(_MINUS_INFINITY)
        for i in range(0, visible, 16):
            score = lanes.load(weights, row * SPAN + i)
            highest = lanes.maximum(highest, lanes.first_lanes(score, visible - i, _MINUS_INFINITY))
        maximum = lanes.largest(highest)
        shift = lanes.spread(maximum)
        sums = lanes.spread(_ZERO)
        for i in range(0, visible, 16):
            weight = lanes.exp(lanes.subtract(lanes.load(weights, row * SPAN + i), shift))
            weight = lanes.first_lanes(weight, visible - i, _ZERO)
            lanes.store(weights, row * SPAN + i, weight)
            sums = lanes.add(sums, weight)
        part[maxima + row] = maximum
        part[maxima + rows + row] = lanes.total(sums)


@inlined
def _clear(part, size):  # type: ignore[no-untyped-def]
    for i in range(0, size, 16):
        lanes.store(part, i, lanes.spread(_ZERO))


@inlined
def _weigh(weights, packed, part, first, count, sees, num_rows, G, D):  # type: ignore[no-untyped-def]
    """part[row] += weights[row, first + key] * value[key] over packed values that the row sees."""
    width = (D + 15) // 16 * 16
    for row in range(0, num_rows, 4):
        # All rows of these four see `common` of the values; a later row may see up to 3 more.
        common = max(0, min(count, sees + row // G))
        _weigh_four(weights, row * SPAN + first, packed, part, row * width, common, width)
        for single in range(row, min(row + 4, num_rows)):
            for key in range(common, min(count, sees + single // G)):
                weight = lanes.spread(weights[single * SPAN + first + key])
                for d in range(0, width, 16):
                    to = single * width + d
                    value = lanes.load(packed, key * width + d)
                    value = lanes.multiply_add(weight, value, lanes.load(part, to))
                    lanes.store(part, to, value)


@inlined
def _weigh_four(weights, at, packed, part, to, count, width):  # type: ignore[no-untyped-def]
    d = 0
    while d + 64 <= width:
        tiles.accumulate_4x4(weights, at, SPAN, packed, d, width, part, to + d, width, count)
        d += 64
    if d + 32 <= width:
        tiles.accumulate_4x2(weights, at, SPAN, packed, d, width, part, to + d, width, count)
        d += 32
    if d < width:
        tiles.accumulate_4x1(weights, at, SPAN, packed, d, width, part, to + d, width, count)


@inlined
def _pack_values(v_cache, starts, first, num_keys, packed, D):  # type: ignore[no-untyped-def]
    """packed[key, d] float32 of up to 64 keys, zeros from D up to the next multiple of 16."""
    width = (D + 15) // 16 * 16
    for key in range(num_keys):
        start = starts[first + key]
        for d in range(0, D // 16 * 16, 16):
            lanes.store(packed, key * width + d, lanes.load(v_cache, start + d))
        if width > D:
            whole = D // 16 * 16
            lanes.store(packed, key * width + whole, lanes.spread(_ZERO))
            for d in range(whole, D):
                packed[key * width + d] = lanes.element(v_cache, start + d)


@inlined
def _copy(stored, to, part, num_rows, width, rows):  # type: ignore[no-untyped-def]
    for i in range(0, num_rows * width, 16):
        lanes.store(stored, to + i, lanes.load(part, i))
    for row in range(rows * width, rows * width + 2 * rows):
        stored[to + row] = part[row]


@inlined
def _merge(run, part, start, is_first, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """Add one span's sums to those of the spans before it."""
    if is_first:
        _copy(run, 0, part[start:], num_rows, width, rows)
        return
    maxima, sums = rows * width, rows * width + rows
    for row in range(num_rows):
        old, new = run[maxima + row], part[start + maxima + row]
        if new == _MINUS_INFINITY:
            continue
        maximum = max(old, new)
        of_old = lanes.largest(lanes.exp(lanes.spread(old - maximum)))
        of_new = lanes.largest(lanes.exp(lanes.spread(new - maximum)))
        run[maxima + row] = maximum
        run[sums + row] = run[sums + row] * of_old + part[start + sums + row] * of_new
        for i in range(row * width, row * width + width, 16):
            value = lanes.multiply(lanes.load(part, start + i), lanes.spread(of_new))
            value = lanes.multiply_add(lanes.load(run, i), lanes.spread(of_old), value)
            lanes.store(run, i, value)


@inlined
def _write_out(out, run, first_row, num_rows, head, H, G, D, rows):  # type: ignore[no-untyped-def]
    width = (D + 15) // 16 * 16
    for row in range(num_rows):
        target = ((first_row + row // G) * H + head * G + row % G) * D
        total = lanes.spread(run[rows * width + rows + row])
        for d in range(0, D, 16):
            value = lanes.divide(lanes.load(run, row * width + d), total)
            if d + 16 <= D:
                lanes.store(out, target + d, value)
            else:
                lanes.store_first(out, target + d, value, D - d)


@worker
def run_items(args):  # type: ignore[no-untyped-def]
    """Take items of the work list until none is left."""
    rows, D, K = args[_ROWS], args[_D], args[_K]
    G = args[_H] // K
    width = (D + 15) // 16 * 16
    per_worker = args[_PER_WORKER]
    stored_size = rows * width + 2 * rows
    base = args[_SCRATCH] + 4 * per_worker * memory.fetch_add(args, _NEXT_WORKER, 1)
    # This thread's scratch: sums of the span and of all spans so far (weighted values [rows,
    # width], then maxima and sums [rows]), queries, weights, packed KV, where keys start.
    part = memory.float32_at(base, stored_size)
    run = memory.float32_at(base + 4 * stored_size, stored_size)
    queries = memory.float32_at(base + 8 * stored_size, rows * width)
    weights = memory.float32_at(base + 8 * stored_size + 4 * rows * width, rows * SPAN)
    after = base + 8 * stored_size + 4 * rows * (width + SPAN)
    packed = memory.float32_at(after, 2 * _KEYS * width)
    starts = memory.int64_at(after + 8 * _KEYS * width, SPAN)
    stored = memory.float32_at(
        args[_SCRATCH] + 4 * per_worker * args[_NUM_WORKERS], args[_NUM_PARTIALS] * stored_size
    )
    finished = memory.int64_at(args[_FINISHED], args[_NUM_FINISHED])
    items = memory.int64_at(args[_ITEMS], args[_NUM_ITEMS] * 9)
    cu_seqlens = memory.int32_at(args[_CU_SEQLENS], args[_S] + 1)
    context_lens = memory.int32_at(args[_CONTEXT_LENS], args[_S])
    tables = memory.int32_at(args[_TABLES], args[_S] * args[_M])

    # The tensors, as both of the types that they may have.
    is_float32, size, q_size = args[_IS_FLOAT32], args[_CACHE_SIZE], args[_T] * args[_Q_STRIDE]
    out_size = args[_T] * args[_H] * D
    q32, q16 = memory.float32_at(args[_Q], q_size), memory.bfloat16_at(args[_Q], q_size)
    k32, k16 = memory.float32_at(args[_K_CACHE], size), memory.bfloat16_at(args[_K_CACHE], size)
    v32, v16 = memory.float32_at(args[_V_CACHE], size), memory.bfloat16_at(args[_V_CACHE], size)
    out32, out16 = memory.float32_at(args[_OUT], out_size), memory.bfloat16_at(args[_OUT], out_size)

    while True:
        number = memory.fetch_add(args, _NEXT_ITEM, 1)
        if number >= args[_NUM_ITEMS]:
            return
        item = items[9 * number : 9 * number + 9]
        seq, head, num_queries = item[SEQ], item[HEAD], item[NUM_QUERIES]
        first_row = cu_seqlens[seq] + item[FIRST_QUERY]
        num_rows = num_queries * G
        # Positions that the first query of the tile sees; the next sees one more.
        sees = context_lens[seq] - (cu_seqlens[seq + 1] - first_row) + 1
        scale = memory.float32_of_bits(args[_SCALE])
        if is_float32:
            _load_queries(q32, queries, first_row, num_rows, head, G, D, args[_Q_STRIDE], scale)
        else:
            _load_queries(q16, queries, first_row, num_rows, head, G, D, args[_Q_STRIDE], scale)
        table = tables[seq * args[_M] : (seq + 1) * args[_M]]
        for span in range(item[FIRST_SPAN], item[END_SPAN]):
            begin = span * SPAN
            num_keys = min(SPAN, sees + num_queries - 1 - begin)
            _locate_keys(starts, table, begin, num_keys, head, K, args[_P], D)
            for first in range(0, num_keys, _KEYS):
                count = min(_KEYS, num_keys - first)
                if is_float32:
                    _pack_keys(k32, starts, first, count, packed, D)
                else:
                    _pack_keys_bfloat16(k16, starts, first, count, packed, D)
                _score(queries, packed, weights, first, num_rows, D)
            _soften(weights, part, sees - begin, num_rows, G, rows * width, rows)
            _clear(part, num_rows * width)
            for first in range(0, num_keys, _KEYS):
                count = min(_KEYS, num_keys - first)
                if is_float32:
                    _pack_values(v32, starts, first, count, packed, D)
                else:
                    _pack_values(v16, starts, first, count, packed, D)
                _weigh(weights, packed, part, first, count, sees - begin - first, num_rows, G, D)
            if item[PARTIAL] < 0:
                _merge(run, part, 0, span == 0, num_rows, width, rows)
            else:
                _copy(stored, (item[PARTIAL] + span) * stored_size, part, num_rows, width, rows)
        if item[PARTIAL] >= 0:
            spans = item[END_SPAN] - item[FIRST_SPAN]
            if memory.fetch_add(finished, item[TILE], spans) + spans < item[NUM_SPANS]:
                continue
            for span in range(item[NUM_SPANS]):
                start = (item[PARTIAL] + span) * stored_size
                _merge(run, stored, start, span == 0, num_rows, width, rows)
        if is_float32:
            _write_out(out32, run, first_row, num_rows, head, args[_H], G, D, rows)
        else:
            _write_out(out16, run, first_row, num_rows, head, args[_H], G, D, rows)
