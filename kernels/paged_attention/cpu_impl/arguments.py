"""Arguments of the attention workers, and the scratch memory that they describe."""

from collections import namedtuple
from typing import NamedTuple

from thothy_kernels.numba_simd import raw_memory
from thothy_kernels.numba_simd.arguments import indices_of
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS


class Arguments(NamedTuple):
    """One launch of a worker: counters, sizes, and addresses of tensors."""

    next_item: int  # counter shared by the threads: the item that is computed next
    next_worker: int  # counter shared by the threads: the scratch memory that is free
    num_items: int
    items: int  # int64 [num_items, NUM_COLUMNS], see `work_list`

    H: int  # query heads
    K: int  # kv heads
    D: int  # head dim
    P: int  # block_size
    T: int  # rows of q and out
    S: int  # sequences
    M: int  # columns of block_tables
    window: int  # positions that a query attends to, itself included; NO_WINDOW: all
    scale: int  # float32 bits, factor of the scores
    softcap: int  # float32 bits, 0: none

    q: int  # [T, H, D]
    q_stride: int  # elements from row to row of q
    k_cache: int  # [B, K, P, D], blocks apart
    v_cache: int  # like k_cache
    block_stride: int  # elements from block to block of both caches
    cache_size: int  # elements from the first block to the end of the last
    out: int  # [T, H, D], contiguous
    block_tables: int  # int32 [S, M]
    cu_seqlens: int  # int32 [S + 1]
    context_lens: int  # int32 [S]

    tile_rows: int  # rows of a tile in scratch memory
    scratch: int  # float32 [num_workers * scratch_per_worker], then the stored spans
    scratch_per_worker: int  # float32s
    num_workers: int
    num_partials: int  # stored spans
    finished_spans: int  # int64 [num_cut_tiles]: computed spans of each tile that is cut
    num_cut_tiles: int


ARG = indices_of(Arguments)

# Scratch memory of a thread.
# - part, run: sums of one span and of all spans so far: weighted values [rows, width], maxima
#   [rows], sums [rows].
# - queries [rows, width]; weights [rows, SPAN]; packed keys or values [2 * KEYS * width]; starts
#   [SPAN]: offset of each key of the span in the cache.
# - AMX only: split, weights in two bfloat16 parts [2, rows, SPAN]; square, four tiles [4, 16, 16];
#   ahead, addresses to prefetch; saved, the tile configuration from before.
# - stored: partial results of spans, each laid out like `part`, shared by all threads.
Scratch = namedtuple(
    "Scratch", "part run queries weights packed starts split square ahead saved stored"
)
_SQUARE, _AHEAD, _SAVED = 1024, 2 * SPAN // 16, 16  # float32s


def width_of(D: int) -> int:
    """Elements of a row of D in scratch memory: whole vectors."""
    return -(-D // 16) * 16


def partial_size(rows: int, D: int) -> int:
    """float32s of `part`."""
    return rows * (width_of(D) + 2)


def scratch_size(rows: int, D: int) -> int:
    """float32s of a thread's scratch memory."""
    width = width_of(D)
    common = 2 * partial_size(rows, D) + rows * (width + SPAN) + 2 * KEYS * width + 2 * SPAN
    return common + rows * SPAN + _SQUARE + _AHEAD + _SAVED


@inlined
def scratch_of(args):  # type: ignore[no-untyped-def]
    """Scratch memory of the calling thread; each call returns the next thread's."""
    rows = args[ARG.tile_rows]
    width = (args[ARG.D] + 15) // 16 * 16
    size = rows * (width + 2)
    worker = raw_memory.fetch_add(args, ARG.next_worker, 1)
    part = args[ARG.scratch] + 4 * args[ARG.scratch_per_worker] * worker
    run = part + 4 * size
    queries = run + 4 * size
    weights = queries + 4 * rows * width
    packed = weights + 4 * rows * SPAN
    starts = packed + 8 * KEYS * width
    split = starts + 8 * SPAN
    square = split + 4 * rows * SPAN
    ahead = square + 4 * _SQUARE
    saved = ahead + 4 * _AHEAD
    stored = args[ARG.scratch] + 4 * args[ARG.scratch_per_worker] * args[ARG.num_workers]
    return Scratch(
        part=raw_memory.float32_at(part, size),
        run=raw_memory.float32_at(run, size),
        queries=raw_memory.float32_at(queries, rows * width),
        weights=raw_memory.float32_at(weights, rows * SPAN),
        packed=raw_memory.float32_at(packed, 2 * KEYS * width),
        starts=raw_memory.int64_at(starts, SPAN),
        split=raw_memory.bfloat16_at(split, 2 * rows * SPAN),
        square=raw_memory.float32_at(square, _SQUARE),
        ahead=raw_memory.int64_at(ahead, _AHEAD // 2),
        saved=raw_memory.int64_at(saved, _SAVED // 2),
        stored=raw_memory.float32_at(stored, args[ARG.num_partials] * size),
    )
