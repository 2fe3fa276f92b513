"""Rows of a tile in float32: scores, softmax over a span, weighted values, merging of spans.

Each element of a row is summed one by one, in the order of d or of the position, and only over
positions that are visible to the row: its arithmetic does not depend on other rows.
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
    """queries[row] = scale * q; zeros in rows that fill up the last four."""
    width = (D + 15) // 16 * 16
    factor = vec16.broadcast(scale)
    for row in range(num_rows):
        source = (first_row + row // G) * stride + (head * G + row % G) * D
        for d in range(0, D, 16):
            if d + 16 <= D:
                value = vec16.load(q, source + d)
            else:
                value = vec16.load_first(q, source + d, D - d)
            vec16.store(queries, row * width + d, vec16.multiply(value, factor))
    for i in range(num_rows * width, (num_rows + 3) // 4 * 4 * width, 16):
        vec16.store(queries, i, vec16.broadcast(_ZERO))


@inlined
def score(queries, packed, weights, first, num_rows, D):  # type: ignore[no-untyped-def]
    """weights[row, first + key] = queries[row] . key for 64 packed keys."""
    width = (D + 15) // 16 * 16
    zero = vec16.broadcast(_ZERO)
    for row in range(0, num_rows, 4):
        to = row * SPAN + first
        for i in range(4):
            for key in range(0, KEYS, 16):
                vec16.store(weights, to + i * SPAN + key, zero)
        at = row * width
        microkernels.accumulate_4x4(queries, at, width, packed, 0, KEYS, weights, to, SPAN, D)


@inlined
def apply_softcap(weights, first, num_keys, softcap, num_rows):  # type: ignore[no-untyped-def]
    """s = softcap * tanh(s / softcap) for the scores of `num_keys` keys from `first` on."""
    factor, limit = vec16.broadcast(np.float32(1.0) / softcap), vec16.broadcast(softcap)
    for row in range(num_rows):
        for i in range(row * SPAN + first, row * SPAN + first + num_keys, 16):
            tanh = _tanh(vec16.multiply(vec16.load(weights, i), factor))
            vec16.store(weights, i, vec16.multiply(limit, tanh))


@inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    """tanh(x) with a relative error of a few roundings, also near 0.

    Evaluates the series of tanh(x / 16), then applies tanh(2 y) = 2 tanh(y) / (1 + tanh(y)^2) four
    times. Beyond 10 the result is 1 in float32.
    """
    bound = vec16.broadcast(np.float32(10.0))
    negative = vec16.broadcast(np.float32(-1.0))
    x = vec16.maximum(x, vec16.multiply(bound, negative))
    x = vec16.multiply(
        negative, vec16.maximum(vec16.multiply(x, negative), vec16.multiply(bound, negative))
    )
    x = vec16.multiply(x, vec16.broadcast(np.float32(1 / 16)))
    square = vec16.multiply(x, x)
    series = vec16.broadcast(np.float32(62 / 2835))
    series = vec16.fma(series, square, vec16.broadcast(np.float32(-17 / 315)))
    series = vec16.fma(series, square, vec16.broadcast(np.float32(2 / 15)))
    series = vec16.fma(series, square, vec16.broadcast(np.float32(-1 / 3)))
    y = vec16.fma(vec16.multiply(series, square), x, x)
    one = vec16.broadcast(np.float32(1.0))
    for _ in range(4):
        y = vec16.divide(vec16.add(y, y), vec16.fma(y, y, one))
    return y


@inlined
def exponentiate(weights, part, first_end, window, num_rows, G, maxima, rows):  # type: ignore[no-untyped-def]
    """weights = exp(score - maximum) at each row's visible positions; `part` gets maxima and sums.

    A row without a visible position in the span gets the maximum -infinity and is left out of the
    merge. The lane of a position depends on its place in the span alone.
    """
    for row in range(num_rows):
        visible = min(SPAN, first_end + row // G)
        part[maxima + row] = _MINUS_INFINITY
        part[maxima + rows + row] = _ZERO
        hidden = max(0, first_end + row // G - window)
        if visible <= hidden:
            continue
        begin = hidden // 16 * 16
        for i in range(row * SPAN + begin, row * SPAN + hidden):
            weights[i] = _MINUS_INFINITY
        highest = vec16.broadcast(_MINUS_INFINITY)
        for i in range(begin, visible, 16):
            score = vec16.load(weights, row * SPAN + i)
            highest = vec16.maximum(highest, vec16.first_lanes(score, visible - i, _MINUS_INFINITY))
        maximum = vec16.reduce_max(highest)
        shift = vec16.broadcast(maximum)
        for i in range(row * SPAN + begin, row * SPAN + hidden):
            weights[i] = maximum  # any score whose exponential is finite
        sums = vec16.broadcast(_ZERO)
        for i in range(begin, visible, 16):
            weight = exp(vec16.subtract(vec16.load(weights, row * SPAN + i), shift))
            weight = vec16.first_lanes(weight, visible - i, _ZERO)
            if i < hidden:
                weight = vec16.subtract(weight, vec16.first_lanes(weight, hidden - i, _ZERO))
            vec16.store(weights, row * SPAN + i, weight)
            sums = vec16.add(sums, weight)
        part[maxima + row] = maximum
        part[maxima + rows + row] = vec16.reduce_add(sums)


@inlined
def clear(part, size):  # type: ignore[no-untyped-def]
    """part[:size] = 0, in whole vectors."""
    for i in range(0, size, 16):
        vec16.store(part, i, vec16.broadcast(_ZERO))


@inlined
def accumulate_values(weights, packed, part, first, count, first_end, window, num_rows, G, D):  # type: ignore[no-untyped-def]
    """part[row] += weights[row, first + key] * value[key] over packed values visible to the row."""
    width = (D + 15) // 16 * 16
    for row in range(0, num_rows, 4):
        # begin .. end are visible to all four rows. An earlier row may have more visible before
        # begin, a later row more behind end.
        last = min(row + 3, num_rows - 1)
        begin = max(0, first_end + last // G - window)
        end = max(begin, min(count, first_end + row // G))
        for single in range(row, last + 1):
            hidden = max(0, first_end + single // G - window)
            _accumulate_one(weights, packed, part, single, first, hidden, min(begin, count), width)
        if end > begin:
            at, start = row * SPAN + first + begin, begin * width
            _accumulate_four(weights, at, packed, start, part, row * width, end - begin, width)
        for single in range(row, last + 1):
            visible = min(count, first_end + single // G)
            _accumulate_one(weights, packed, part, single, first, end, visible, width)


@inlined
def _accumulate_one(weights, packed, part, row, first, begin, end, width):  # type: ignore[no-untyped-def]
    for key in range(begin, end):
        weight = vec16.broadcast(weights[row * SPAN + first + key])
        for d in range(0, width, 16):
            value = vec16.load(packed, key * width + d)
            value = vec16.fma(weight, value, vec16.load(part, row * width + d))
            vec16.store(part, row * width + d, value)


@inlined
def _accumulate_four(weights, at, packed, start, part, to, count, width):  # type: ignore[no-untyped-def]
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
def load_rows(part, stored, start, row_from, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """part = partial results of `num_rows` rows of a stored span, from `row_from` on."""
    at = start + row_from * width
    for i in range(0, num_rows * width, 16):
        vec16.store(part, i, vec16.load(stored, at + i))
    for row in range(num_rows):
        for which in range(rows * width, rows * width + 2 * rows, rows):
            part[which + row] = stored[start + which + row_from + row]


@inlined
def copy(stored, to, part, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """stored[to:] = part: values of `num_rows` rows, then all maxima and sums."""
    for i in range(0, num_rows * width, 16):
        vec16.store(stored, to + i, vec16.load(part, i))
    for row in range(rows * width, rows * width + 2 * rows):
        stored[to + row] = part[row]


@inlined
def merge(run, part, start, is_first, num_rows, width, rows):  # type: ignore[no-untyped-def]
    """Merge one span's partial result into that of the spans before it."""
    if is_first:
        copy(run, 0, part[start:], num_rows, width, rows)
        return
    maxima, sums = rows * width, rows * width + rows
    for row in range(num_rows):
        old, new = run[maxima + row], part[start + maxima + row]
        if new == _MINUS_INFINITY:
            continue
        if old == _MINUS_INFINITY:  # the first span with a position visible to the row
            run[maxima + row], run[sums + row] = new, part[start + sums + row]
            for i in range(row * width, row * width + width, 16):
                vec16.store(run, i, vec16.load(part, start + i))
            continue
        maximum = max(old, new)
        old_factor = vec16.reduce_max(exp(vec16.broadcast(old - maximum)))
        new_factor = vec16.reduce_max(exp(vec16.broadcast(new - maximum)))
        run[maxima + row] = maximum
        run[sums + row] = run[sums + row] * old_factor + part[start + sums + row] * new_factor
        for i in range(row * width, row * width + width, 16):
            value = vec16.multiply(vec16.load(part, start + i), vec16.broadcast(new_factor))
            value = vec16.fma(vec16.load(run, i), vec16.broadcast(old_factor), value)
            vec16.store(run, i, value)


@inlined
def write_out(out, run, first_row, num_rows, head, H, G, D, rows):  # type: ignore[no-untyped-def]
    """out[T, H, D] = weighted values / sum for the rows of a tile."""
    width = (D + 15) // 16 * 16
    for row in range(num_rows):
        target = ((first_row + row // G) * H + head * G + row % G) * D
        total = vec16.broadcast(run[rows * width + rows + row])
        for d in range(0, D, 16):
            value = vec16.divide(vec16.load(run, row * width + d), total)
            if d + 16 <= D:
                vec16.store(out, target + d, value)
            else:
                vec16.store_first(out, target + d, value, D - d)
