"""The repetition penalty on a device (Triton), in two launches."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["R", "num_pairs"])
def penalty_kernel(  # type: ignore[no-untyped-def]
    logits, row_ids, token_ids, penalty, penalised,
    R, V, row_stride, token_stride, num_pairs,
    WRITES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each pair's new logit to penalised, float32 [num_pairs]; with WRITES, to the logits.

    The second launch has WRITES. All pairs are read before one is written, so a repeated pair is
    penalised once. Pairs outside the logits are skipped.
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
        # div_rn rounds correctly, like the reference; plain float32 division on a device does not.
        value = tl.where(value < 0.0, value * factor, tl.div_rn(value, factor))
        tl.store(penalised + pairs, value, mask=is_inside)
