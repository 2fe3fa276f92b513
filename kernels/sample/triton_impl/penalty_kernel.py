"""The repetition penalty on a device (Triton), in two launches."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["R", "num_pairs"])
def penalty_kernel(  # type: ignore[no-untyped-def]
    logits, row_ids, token_ids, penalty, penalised,
    R, V, row_stride, token_stride, num_pairs,
    WRITES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """First launch: the new logit of each pair, float32 [num_pairs], to `penalised`. Second
    (WRITES): from there to the logits.

    All are read before one is written, or a pair that is named twice could be penalised twice.
    Pairs outside the logits are skipped.
    """
    pairs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    row = tl.load(row_ids + pairs, mask=is_pair, other=-1)
    token = tl.load(token_ids + pairs, mask=is_pair, other=-1)
    is_inside = (row >= 0) & (row < R) & (token >= 0) & (token < V)
    at = logits + row * row_stride + token * token_stride
    if WRITES:
        tl.store(at, tl.load(penalised + pairs, mask=is_inside), mask=is_inside)
    else:
        value = tl.load(at, mask=is_inside, other=0.0)
        factor = tl.load(penalty + pairs, mask=is_pair, other=1.0)
        # div_rn: a device's plain float32 division is not rounded correctly, the reference's is.
        value = tl.where(value < 0.0, value * factor, tl.div_rn(value, factor))
        tl.store(penalised + pairs, value, mask=is_inside)
