"""Online softmax over tiles of positions, for both attention kernels (Triton).

Scores are in base 2, because the device computes exp2. A row's state is its maximum, its sum of
weights and its weighted values (Milakov and Gimelshein 2018, arXiv:1805.02867).
"""

import triton
import triton.language as tl

from thothy_kernels.launch import LOG2E

_LOG2E = tl.constexpr(LOG2E)


@triton.jit
def scores_of(q, k, scale, softcap, HAS_SOFTCAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scores of q [ROWS, D] and k [TILE, D], float32, in base 2. Without a cap `scale` includes
    log2(e)."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if HAS_SOFTCAP:
        # tanh(|z|) = (1 - e) / (1 + e) with e = exp(-2|z|), which never overflows.
        e = tl.exp2(tl.abs(scores) * (-2.0 * _LOG2E / softcap))
        capped = softcap * (1.0 - e) / (1.0 + e)
        scores = tl.where(scores < 0.0, -capped, capped) * _LOG2E
    return scores


@triton.jit
def add_tile(state, scores, v, MAY_BE_EMPTY: tl.constexpr):  # type: ignore[no-untyped-def]
    """The state (maximum [ROWS], sum [ROWS], values [ROWS, D]) after one more tile.

    scores [ROWS, TILE], v [TILE, D]; masked positions have the score -inf and a finite v.
    MAY_BE_EMPTY: a row may have no visible position in the tiles so far.
    """
    maximum, total, values = state
    new_maximum = tl.maximum(maximum, tl.max(scores, 1))
    finite = new_maximum
    if MAY_BE_EMPTY:
        finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    weights = tl.exp2(scores - finite[:, None])
    kept = tl.exp2(maximum - finite)
    total = total * kept + tl.sum(weights, 1)
    # Tensor cores multiply weights in the dtype of the values; sums stay float32.
    weighted = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_maximum, total, values * kept[:, None] + weighted


@triton.jit
def empty_state(ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The state of rows before any tile."""
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    return maximum, total, tl.zeros((ROWS, WIDTH), tl.float32)


@triton.jit
def result_of(state):  # type: ignore[no-untyped-def]
    """Weighted means [ROWS, D]; zeros for a row without a visible position."""
    _, total, values = state
    return values / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def load_kv(  # type: ignore[no-untyped-def]
    cache, table, positions, visible, head, block_stride,
    P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Keys or values [TILE, WIDTH] of positions [TILE] under one kv head; zeros where not visible
    and beyond D."""
    block_ids = tl.load(table + positions // P, mask=visible, other=0).to(tl.int64)
    # 64-bit offsets: a pool has more than 2^31 elements.
    starts = block_ids * block_stride + (head * P + positions % P) * D
    offs_d = tl.arange(0, WIDTH)
    mask = visible[:, None]
    if WIDTH != D:
        mask = mask & (offs_d < D)[None, :]
    return tl.load(cache + starts[:, None] + offs_d[None, :], mask=mask, other=0.0)
