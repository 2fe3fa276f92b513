"""What happens to the rows of a tile: scores, softmax over a span, weighted values, merging.

Each element of a row gets its summands one by one, in the order of d or of the position, and none
for a position that the row does not see: its arithmetic does not depend on the other rows.
"""

import numpy as np

from thothy_kernels.compiled import lanes, tiles
from thothy_kernels.compiled.exponential import exp
from thothy_kernels.compiled.functions import inlined
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.packing import KEYS

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)


@inlined
def load_queries(q, queries, first_row, num_rows, head, G, D, stride, scale):  # type: ignore[no-untyped-def]
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
def score(queries, packed, weights, first, num_rows, D):  # type: ignore[no-untyped-def]
    """weights[row, first + key] = queries[row] . key, for 64 packed keys."""
    width = (D + 15) // 16 * 16
    zero = lanes.spread(_ZERO)
    for row in range(0, num_rows, 4):
        to = row * SPAN + first
        for i in range(4):
            for key in range(0, KEYS, 16):
                lanes.store(weights, to + i * SPAN + key, zero)
        at = row * width
        tiles.accumulate_4x4(queries, at, width, packed, 0, KEYS, weights, to, SPAN, D)


@inlined
def soften(weights, part, sees, num_rows, G, maxima, rows):  # type: ignore[no-untyped-def]
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
            weight = exp(lanes.subtract(lanes.load(weights, row * SPAN + i), shift))
            weight = lanes.first_lanes(weight, visible - i, _ZERO)
            lanes.store(weights, row * SPAN + i, weight)
            sums = lanes.add(sums, weight)
        part[maxima + row] = maximum
        part[maxima + rows + row] = lanes.total(sums)


@inlined
def clear(part, size):  # type: ignore[no-untyped-def]
    for i in range(0, size, 16):
        lanes.store(part, i, lanes.spread(_ZERO))


@inlined
def weigh(weights, packed, part, first, count, sees, num_rows, G, D):  # type: ignore[no-untyped-def]
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
def copy(stored, to, part, num_rows, width, rows):  # type: ignore[no-untyped-def]
    for i in range(0, num_rows * width, 16):
        lanes.store(stored, to + i, lanes.load(part, i))
    for row in range(rows * width, rows * width + 2 * rows):
        stored[to + row] = part[row]


@inlined
def merge(run, part, start, is_first, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """Add one span's sums to those of the spans before it."""
    if is_first:
        copy(run, 0, part[start:], num_rows, width, rows)
        return
    maxima, sums = rows * width, rows * width + rows
    for row in range(num_rows):
        old, new = run[maxima + row], part[start + maxima + row]
        if new == _MINUS_INFINITY:
            continue
        maximum = max(old, new)
        of_old = lanes.largest(exp(lanes.spread(old - maximum)))
        of_new = lanes.largest(exp(lanes.spread(new - maximum)))
        run[maxima + row] = maximum
        run[sums + row] = run[sums + row] * of_old + part[start + sums + row] * of_new
        for i in range(row * width, row * width + width, 16):
            value = lanes.multiply(lanes.load(part, start + i), lanes.spread(of_new))
            value = lanes.multiply_add(lanes.load(run, i), lanes.spread(of_old), value)
            lanes.store(run, i, value)


@inlined
def write_out(out, run, first_row, num_rows, head, H, G, D, rows):  # type: ignore[no-untyped-def]
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
