"""Worker `sample_rows`: samples one token from each row of logits.

Gumbel-max needs two logarithms per token, but few tokens can win: token i beats the best score so
far only if u_i > exp(-t), t = exp(z_i - best), and then 1 - u_i < t, since 1 - u <= -log u. That
test costs one float32 exponential in a vector of 16; the handful of tokens per row that pass are
computed in float64.
"""

import math
from typing import NamedTuple

import numpy as np

from thothy_kernels.numba_simd import raw_memory, vec16
from thothy_kernels.numba_simd.arguments import indices_of
from thothy_kernels.numba_simd.exp import exp
from thothy_kernels.numba_simd.functions import inlined, worker
from thothy_kernels.sample.cpu_impl.philox import complements, gumbel

# Logits per pass: their random numbers stay in the level 1 cache.
_CHUNK = 1024
_MINUS_INFINITY = np.float32(-np.inf)
_ZERO = np.float32(0.0)
# exp(-60) of 2^20 tokens is below the rounding of a float64 sum near 1.
_NEGLIGIBLE = -60.0


class Arguments(NamedTuple):
    """One launch of `sample_rows`: counters, sizes, and addresses of tensors."""

    next_row: int  # counter shared by the threads: the row that is sampled next
    next_worker: int  # counter shared by the threads: the scratch memory that is free
    R: int
    V: int
    stride: int  # elements from row to row of logits
    logits: int  # float32 [R, V]
    temperature: int  # float32 [R]
    top_k: int  # int32 [R]
    top_p: int  # float32 [R]
    seeds: int  # int64 [R]
    positions: int  # int64 [R]
    tokens: int  # int64 [R]: the result; -1 for a row with NaN or an infinite maximum
    scratch: int  # ids int64 [V] and weights float64 [V] per thread; unused without filters


ARG = indices_of(Arguments)


@inlined
def _highest(line):  # type: ignore[no-untyped-def]
    """The lowest id with the highest logit; -1 if that logit is infinite or the row holds NaN."""
    V = len(line)
    best, best_chunk = _MINUS_INFINITY, 0
    nan = vec16.broadcast(_ZERO)
    for chunk in range(0, V, _CHUNK):
        highest = vec16.broadcast(_MINUS_INFINITY)
        for i in range(chunk, min(chunk + _CHUNK, V), 16):
            if i + 16 <= V:
                value = vec16.load(line, i)
            else:
                value = vec16.load_first(line, i, V - i)
                value = vec16.first_lanes(value, V - i, _MINUS_INFINITY)
            highest = vec16.maximum(highest, value)
            nan = vec16.flag_nan(nan, value)
        maximum = vec16.reduce_max(highest)
        if maximum > best:
            best, best_chunk = maximum, chunk
    if vec16.reduce_max(nan) > _ZERO or math.isinf(best):
        return -1
    for i in range(best_chunk, V):
        if line[i] == best:
            return i
    return -1


@inlined
def _score(line, token, temperature):  # type: ignore[no-untyped-def]
    """logit / temperature in float64."""
    return np.float64(line[token]) / temperature


@inlined
def _draw(line, highest, temperature, seed, position, noise):  # type: ignore[no-untyped-def]
    """The token with the highest logit / temperature + g of all."""
    V = len(line)
    winner = highest
    best = _score(line, highest, temperature) + gumbel(seed, position, highest)
    shift = vec16.broadcast(line[highest])
    inverse = vec16.broadcast(np.float32(1.0 / temperature))
    # Bound of the float32 error of (logit - highest) / temperature, an exponent.
    lost = 4e-7 * (1.0 + abs(np.float64(line[highest]))) / temperature + 1e-4
    for chunk in range(0, V, _CHUNK):
        complements(seed, position, chunk, noise)
        for i in range(chunk, min(chunk + _CHUNK, V), 16):
            count = min(16, V - i)
            value = vec16.load(line, i) if count == 16 else vec16.load_first(line, i, count)
            distance = np.float32(_score(line, highest, temperature) - best + lost)
            z = vec16.multiply(vec16.subtract(value, shift), inverse)
            chance = exp(vec16.add(z, vec16.broadcast(distance)))
            # 2^-32 covers the rounding of the noise and exponentials that are cut to 0.
            chance = vec16.add(chance, vec16.broadcast(np.float32(2.0**-32)))
            if not vec16.any_below(vec16.load(noise, i - chunk), chance):
                continue
            for token in range(i, i + count):
                score = _score(line, token, temperature)
                # g never exceeds -log(-log(1 - 2^-33)) = 22.9.
                if score + 23.0 > best:
                    score += gumbel(seed, position, token)
                    if score > best:
                        best, winner = score, token
    return winner


@inlined
def _draw_from(line, temperature, seed, position, ids, count):  # type: ignore[no-untyped-def]
    """The token with the highest logit / temperature + g of ids[:count]."""
    winner, best = ids[0], -np.inf
    for i in range(count):
        score = _score(line, ids[i], temperature) + gumbel(seed, position, ids[i])
        if score > best:
            best, winner = score, ids[i]
    return winner


@inlined
def _filter(line, highest, temperature, top_k, top_p, ids, weights):  # type: ignore[no-untyped-def]
    """Write the tokens that top-k and top-p keep to ids; returns their number."""
    V = len(line)
    floor = _MINUS_INFINITY
    if 0 < top_k < V:
        floor = _kth_highest(line, top_k, weights)
    if top_p >= 1.0:
        return _gather(line, floor, ids)
    top = _score(line, highest, temperature)
    total = 0.0
    for token in range(V):
        z = _score(line, token, temperature) - top
        if line[token] >= floor and z >= _NEGLIGIBLE:
            total += math.exp(z)
    # Widen the distance from the highest logit until the tokens within it hold more than top_p.
    reach = 4.0
    while True:
        count, mass = 0, 0.0
        for token in range(V):
            z = _score(line, token, temperature) - top
            if line[token] >= floor and z >= -reach:
                ids[count] = token
                weights[count] = math.exp(z)
                mass += weights[count]
                count += 1
        if mass > top_p * total * (1.0 + 1e-9) or reach > 800.0:
            break
        reach *= 2.0
    return _nucleus(line, top_p * total, ids, weights, count)


@inlined
def _gather(line, floor, ids):  # type: ignore[no-untyped-def]
    """Write the tokens whose logit is at least `floor` to ids; returns their number."""
    count = 0
    for token in range(len(line)):
        if line[token] >= floor:
            ids[count] = token
            count += 1
    return count


@inlined
def _kth_highest(line, k, heap):  # type: ignore[no-untyped-def]
    """The k-th highest logit. heap [>= k] is scratch for the k highest, the lowest at the root."""
    for i in range(k):
        heap[i] = line[i]
    for i in range(k // 2 - 1, -1, -1):
        _sink(heap, i, k)
    for i in range(k, len(line)):
        if line[i] > heap[0]:
            heap[0] = line[i]
            _sink(heap, 0, k)
    return np.float32(heap[0])


@inlined
def _sink(heap, at, size):  # type: ignore[no-untyped-def]
    """Restore a min-heap of `size` values below the entry `at`."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[at] <= heap[child]:
            return
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@inlined
def _nucleus(line, wanted, ids, weights, count):  # type: ignore[no-untyped-def]
    """Move the tokens with less than `wanted` weight before them to the front of ids.

    Returns their number. ids and weights [count] become a heap with the highest token at its root;
    roots are removed, to the end of ids, until their weight suffices.
    """
    for i in range(count // 2 - 1, -1, -1):
        _sink_token(line, ids, weights, i, count)
    num_kept, before = 0, 0.0
    while num_kept < count and (num_kept == 0 or before < wanted):
        num_kept += 1
        last = count - num_kept
        before += weights[0]
        ids[0], ids[last] = ids[last], ids[0]
        weights[0] = weights[last]
        _sink_token(line, ids, weights, 0, last)
    for i in range(num_kept):
        ids[i] = ids[count - num_kept + i]
    return num_kept


@inlined
def _sink_token(line, ids, weights, at, size):  # type: ignore[no-untyped-def]
    """Restore a max-heap of `size` tokens, ordered by `_before`, below the entry `at`."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _before(line, ids[child + 1], ids[child]):
            child += 1
        if not _before(line, ids[child], ids[at]):
            return
        ids[at], ids[child] = ids[child], ids[at]
        weights[at], weights[child] = weights[child], weights[at]
        at = child


@inlined
def _before(line, a, b):  # type: ignore[no-untyped-def]
    """True if token a ranks before token b: a higher logit, or an equal one and a lower id."""
    return line[a] > line[b] or (line[a] == line[b] and a < b)


@worker
def sample_rows(args):  # type: ignore[no-untyped-def]
    """Sample rows of logits until none is left; see `Arguments`."""
    R, V, stride = args[ARG.R], args[ARG.V], args[ARG.stride]
    logits = raw_memory.float32_at(args[ARG.logits], (R - 1) * stride + V)
    temperatures = raw_memory.float32_at(args[ARG.temperature], R)
    top_ks = raw_memory.int32_at(args[ARG.top_k], R)
    top_ps = raw_memory.float32_at(args[ARG.top_p], R)
    seeds = raw_memory.int64_at(args[ARG.seeds], R)
    positions = raw_memory.int64_at(args[ARG.positions], R)
    tokens = raw_memory.int64_at(args[ARG.tokens], R)
    scratch = args[ARG.scratch] + 16 * V * raw_memory.fetch_add(args, ARG.next_worker, 1)
    noise = np.empty(_CHUNK, np.float32)
    while True:
        row = raw_memory.fetch_add(args, ARG.next_row, 1)
        if row >= R:
            return
        line = logits[row * stride : row * stride + V]
        best = _highest(line)
        temperature = np.float64(temperatures[row])
        top_k, top_p = np.int64(top_ks[row]), np.float64(top_ps[row])
        if best >= 0 and temperature > 0.0:
            seed, position = seeds[row], positions[row]
            if 0 < top_k < V or top_p < 1.0:
                ids = raw_memory.int64_at(scratch, V)
                weights = raw_memory.float64_at(scratch + 8 * V, V)
                kept = _filter(line, best, temperature, top_k, top_p, ids, weights)
                best = _draw_from(line, temperature, seed, position, ids, kept)
            else:
                best = _draw(line, best, temperature, seed, position, noise)
        tokens[row] = best
