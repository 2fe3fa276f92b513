"""What happens to the rows of a tile: scores, softmax over a span, weighted values, merging.

Each element of a row gets its summands one by one, in the order of d or of the position, and none
for a position that the row does not see: its arithmetic does not depend on the other rows.
"""

import numpy as np

from thothy_kernels.numba_simd import microkernels, vec16
from thothy_kernels.numba_simd.exp import exp
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS

_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)


@inlined
def load_queries(q, queries, first_row, num_rows, head, G, D, stride, scale):  # type: ignore[no-untyped-def]
    """queries[row] = scale * q, zeros in what fills the last four rows."""
    width = (D + 15) // 16 * 16
    factor = vec16.spread(scale)
    for row in range(num_rows):
        source = (first_row + row // G) * stride + (head * G + row % G) * D
        for d in range(0, D, 16):
            if d + 16 <= D:
                value = vec16.load(q, source + d)
            else:
                value = vec16.load_first(q, source + d, D - d)
            vec16.store(queries, row * width + d, vec16.multiply(value, factor))
    for i in range(num_rows * width, (num_rows + 3) // 4 * 4 * width, 16):
        vec16.store(queries, i, vec16.spread(_ZERO))


@inlined
def score(queries, packed, weights, first, num_rows, D):  # type: ignore[no-untyped-def]
    """weights[row, first + key] = queries[row] . key, for 64 packed keys."""
    width = (D + 15) // 16 * 16
    zero = vec16.spread(_ZERO)
    for row in range(0, num_rows, 4):
        to = row * SPAN + first
        for i in range(4):
            for key in range(0, KEYS, 16):
                vec16.store(weights, to + i * SPAN + key, zero)
        at = row * width
        microkernels.accumulate_4x4(queries, at, width, packed, 0, KEYS, weights, to, SPAN, D)


@inlined
def cap(weights, first, num_keys, softcap, num_rows):  # type: ignore[no-untyped-def]
    """Scores s of `num_keys` keys from `first` on to softcap * tanh(s / softcap)."""
    factor, limit = vec16.spread(np.float32(1.0) / softcap), vec16.spread(softcap)
    for row in range(num_rows):
        for i in range(row * SPAN + first, row * SPAN + first + num_keys, 16):
            tanh = _tanh(vec16.multiply(vec16.load(weights, i), factor))
            vec16.store(weights, i, vec16.multiply(limit, tanh))


@inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    """tanh(x), with an error of a few roundings of its own size, also near 0.

    The series of tanh(x / 16), then four times tanh(2 y) = 2 tanh(y) / (1 + tanh(y)^2). Beyond 10
    the result is 1 in float32.
    """
    bound = vec16.spread(np.float32(10.0))
    negative = vec16.spread(np.float32(-1.0))
    x = vec16.maximum(x, vec16.multiply(bound, negative))
    x = vec16.multiply(
        negative, vec16.maximum(vec16.multiply(x, negative), vec16.multiply(bound, negative))
    )
    x = vec16.multiply(x, vec16.spread(np.float32(1 / 16)))
    square = vec16.multiply(x, x)
    series = vec16.spread(np.float32(62 / 2835))
    series = vec16.multiply_add(series, square, vec16.spread(np.float32(-17 / 315)))
    series = vec16.multiply_add(series, square, vec16.spread(np.float32(2 / 15)))
    series = vec16.multiply_add(series, square, vec16.spread(np.float32(-1 / 3)))
    y = vec16.multiply_add(vec16.multiply(series, square), x, x)
    one = vec16.spread(np.float32(1.0))
    for _ in range(4):
        y = vec16.divide(vec16.add(y, y), vec16.multiply_add(y, y, one))
    return y


@inlined
def soften(weights, part, sees, window, num_rows, G, maxima, rows):  # type: ignore[no-untyped-def]
    """Scores to exp(score - maximum) for what each row sees; the maximum and the sum to `part`.

    A row that sees nothing of the span gets the maximum -infinity, and is left out of the merge.
    Which lane a position falls into is a matter of its place in the span alone.
    """
    for row in range(num_rows):
        visible = min(SPAN, sees + row // G)
        part[maxima + row] = _MINUS_INFINITY
        part[maxima + rows + row] = _ZERO
        unseen = max(0, sees + row // G - window)
        if visible <= unseen:
            continue
        begin = unseen // 16 * 16
        for i in range(row * SPAN + begin, row * SPAN + unseen):
            weights[i] = _MINUS_INFINITY
        highest = vec16.spread(_MINUS_INFINITY)
        for i in range(begin, visible, 16):
            score = vec16.load(weights, row * SPAN + i)
            highest = vec16.maximum(highest, vec16.first_lanes(score, visible - i, _MINUS_INFINITY))
        maximum = vec16.largest(highest)
        shift = vec16.spread(maximum)
        for i in range(row * SPAN + begin, row * SPAN + unseen):
            weights[i] = maximum  # any number whose power is finite
        sums = vec16.spread(_ZERO)
        for i in range(begin, visible, 16):
            weight = exp(vec16.subtract(vec16.load(weights, row * SPAN + i), shift))
            weight = vec16.first_lanes(weight, visible - i, _ZERO)
            if i < unseen:
                weight = vec16.subtract(weight, vec16.first_lanes(weight, unseen - i, _ZERO))
            vec16.store(weights, row * SPAN + i, weight)
            sums = vec16.add(sums, weight)
        part[maxima + row] = maximum
        part[maxima + rows + row] = vec16.total(sums)


@inlined
def clear(part, size):  # type: ignore[no-untyped-def]
    for i in range(0, size, 16):
        vec16.store(part, i, vec16.spread(_ZERO))


@inlined
def weigh(weights, packed, part, first, count, sees, window, num_rows, G, D):  # type: ignore[no-untyped-def]
    """part[row] += weights[row, first + key] * value[key] over packed values that the row sees."""
    width = (D + 15) // 16 * 16
    for row in range(0, num_rows, 4):
        # Values that all rows of these four see; an earlier row may see more of those before, a
        # later one more of those behind.
        last = min(row + 3, num_rows - 1)
        begin = max(0, sees + last // G - window)
        end = max(begin, min(count, sees + row // G))
        for single in range(row, last + 1):
            unseen = max(0, sees + single // G - window)
            _weigh_one(weights, packed, part, single, first, unseen, min(begin, count), width)
        if end > begin:
            at, start = row * SPAN + first + begin, begin * width
            _weigh_four(weights, at, packed, start, part, row * width, end - begin, width)
        for single in range(row, last + 1):
            visible = min(count, sees + single // G)
            _weigh_one(weights, packed, part, single, first, end, visible, width)


@inlined
def _weigh_one(weights, packed, part, row, first, begin, end, width):  # type: ignore[no-untyped-def]
    for key in range(begin, end):
        weight = vec16.spread(weights[row * SPAN + first + key])
        for d in range(0, width, 16):
            value = vec16.load(packed, key * width + d)
            value = vec16.multiply_add(weight, value, vec16.load(part, row * width + d))
            vec16.store(part, row * width + d, value)


@inlined
def _weigh_four(weights, at, packed, start, part, to, count, width):  # type: ignore[no-untyped-def]
    d = 0
    while d + 64 <= width:
        packed_at = start + d
        microkernels.accumulate_4x4(
            weights, at, SPAN, packed, packed_at, width, part, to + d, width, count
        )
        d += 64
    if d + 32 <= width:
        packed_at = start + d
        microkernels.accumulate_4x2(
            weights, at, SPAN, packed, packed_at, width, part, to + d, width, count
        )
        d += 32
    if d < width:
        packed_at = start + d
        microkernels.accumulate_4x1(
            weights, at, SPAN, packed, packed_at, width, part, to + d, width, count
        )


@inlined
def take_rows(part, stored, start, row_from, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """part = the sums of `num_rows` rows, from `row_from` on, of a stored span."""
    at = start + row_from * width
    for i in range(0, num_rows * width, 16):
        vec16.store(part, i, vec16.load(stored, at + i))
    for row in range(num_rows):
        for which in range(rows * width, rows * width + 2 * rows, rows):
            part[which + row] = stored[start + which + row_from + row]


@inlined
def copy(stored, to, part, num_rows, width, rows):  # type: ignore[no-untyped-def]
    for i in range(0, num_rows * width, 16):
        vec16.store(stored, to + i, vec16.load(part, i))
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
        if old == _MINUS_INFINITY:  # this is the first span that the row sees
            run[maxima + row], run[sums + row] = new, part[start + sums + row]
            for i in range(row * width, row * width + width, 16):
                vec16.store(run, i, vec16.load(part, start + i))
            continue
        maximum = max(old, new)
        of_old = vec16.largest(exp(vec16.spread(old - maximum)))
        of_new = vec16.largest(exp(vec16.spread(new - maximum)))
        run[maxima + row] = maximum
        run[sums + row] = run[sums + row] * of_old + part[start + sums + row] * of_new
        for i in range(row * width, row * width + width, 16):
            value = vec16.multiply(vec16.load(part, start + i), vec16.spread(of_new))
            value = vec16.multiply_add(vec16.load(run, i), vec16.spread(of_old), value)
            vec16.store(run, i, value)


@inlined
def write_out(out, run, first_row, num_rows, head, H, G, D, rows):  # type: ignore[no-untyped-def]
    width = (D + 15) // 16 * 16
    for row in range(num_rows):
        target = ((first_row + row // G) * H + head * G + row % G) * D
        total = vec16.spread(run[rows * width + rows + row])
        for d in range(0, D, 16):
            value = vec16.divide(vec16.load(run, row * width + d), total)
            if d + 16 <= D:
                vec16.store(out, target + d, value)
            else:
                vec16.store_first(out, target + d, value, D - d)
