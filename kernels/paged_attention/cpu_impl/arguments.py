"""How work reaches the compiled kernel: one array of int64, and where in it what stands."""

from collections import namedtuple

from thothy_kernels.numba_simd import raw_memory
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS

# Integers, then addresses. NEXT_ITEM and NEXT_WORKER are the counters that threads share.
(
    NEXT_ITEM,
    NEXT_WORKER,
    NUM_ITEMS,
    NUM_WORKERS,
    ROWS,
    PER_WORKER,
    SCALE,
    H,
    K,
    P,
    D,
    M,
    Q_STRIDE,
    T,
    CACHE_SIZE,
    S,
    NUM_PARTIALS,
    NUM_FINISHED,
    ITEMS,
    Q,
    K_CACHE,
    V_CACHE,
    OUT,
    TABLES,
    CU_SEQLENS,
    CONTEXT_LENS,
    SCRATCH,
    FINISHED,
    IS_FLOAT32,
    BLOCK_STRIDE,
    WINDOW,
    SOFTCAP,
    USES_TILES,
    USES_DOTS,
) = range(34)

# A thread's memory. part and run: sums of the span and of all spans so far, that is weighted
# values [rows, width], maxima [rows], sums [rows]. Then queries [rows, width], weights [rows,
# SPAN], packed keys or values [2 * KEYS * width], and where each key of the span starts. For
# matrix tiles: weights in two parts [2, rows, SPAN], four tiles [4, 16, 16], what to fetch ahead,
# how the tiles were set up before. stored: the spans of tiles that are cut, each laid out like
# `part`, shared by all threads.
Scratch = namedtuple(
    "Scratch", "part run queries weights packed starts split square ahead saved stored"
)
_SQUARE, _AHEAD, _SAVED = 1024, 2 * SPAN // 16, 16  # float32s


def width_of(D: int) -> int:
    """Elements of a row of D in the scratch memory: whole vectors."""
    return -(-D // 16) * 16


def partial_size(rows: int, D: int) -> int:
    """float32s of `part`."""
    return rows * (width_of(D) + 2)


def scratch_size(rows: int, D: int) -> int:
    """float32s of a thread's scratch memory."""
    width = width_of(D)
    ours = 2 * partial_size(rows, D) + rows * (width + SPAN) + 2 * KEYS * width + 2 * SPAN
    return ours + rows * SPAN + _SQUARE + _AHEAD + _SAVED


@inlined
def scratch_of(args):  # type: ignore[no-untyped-def]
    """The scratch memory of the calling thread; each call gives the next thread's."""
    rows = args[ROWS]
    width = (args[D] + 15) // 16 * 16
    size = rows * (width + 2)
    part = args[SCRATCH] + 4 * args[PER_WORKER] * raw_memory.fetch_add(args, NEXT_WORKER, 1)
    run = part + 4 * size
    queries = run + 4 * size
    weights = queries + 4 * rows * width
    packed = weights + 4 * rows * SPAN
    starts = packed + 8 * KEYS * width
    split = starts + 8 * SPAN
    square = split + 4 * rows * SPAN
    ahead = square + 4 * _SQUARE
    saved = ahead + 4 * _AHEAD
    stored = args[SCRATCH] + 4 * args[PER_WORKER] * args[NUM_WORKERS]
    return Scratch(
        raw_memory.float32_at(part, size),
        raw_memory.float32_at(run, size),
        raw_memory.float32_at(queries, rows * width),
        raw_memory.float32_at(weights, rows * SPAN),
        raw_memory.float32_at(packed, 2 * KEYS * width),
        raw_memory.int64_at(starts, SPAN),
        raw_memory.bfloat16_at(split, 2 * rows * SPAN),
        raw_memory.float32_at(square, _SQUARE),
        raw_memory.int64_at(ahead, _AHEAD // 2),
        raw_memory.int64_at(saved, _SAVED // 2),
        raw_memory.float32_at(stored, args[NUM_PARTIALS] * size),
    )
