"""The repetition penalty from a table of seen tokens (Triton), in place."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_slots", "num_words"])
def seen_kernel(  # type: ignore[no-untyped-def]
    logits, seen, slots, penalty, V, row_stride, token_stride, num_slots, num_words,
    CHUNKS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """Penalise one of the CHUNKS of a row: WORDS words of seen int32 [num_slots, num_words].

    A logit whose bit is not set is not read: most tokens of a large vocabulary never occurred.
    """
    row = (tl.program_id(0) // CHUNKS).to(tl.int64)
    factor = tl.load(penalty + row)
    slot = tl.load(slots + row)
    if (factor != 1.0) & (slot >= 0) & (slot < num_slots):
        offs_w = tl.program_id(0) % CHUNKS * WORDS + tl.arange(0, WORDS)
        words = tl.load(seen + slot * num_words + offs_w, mask=offs_w < num_words, other=0)
        bits = tl.arange(0, 32)
        tokens = offs_w[:, None] * 32 + bits[None, :]
        is_seen = (((words[:, None] >> bits[None, :]) & 1) != 0) & (tokens < V)
        at = logits + row * row_stride + tokens.to(tl.int64) * token_stride
        value = tl.load(at, mask=is_seen, other=0.0)
        # div_rn rounds correctly, like the reference; plain float32 division on a device does not.
        value = tl.where(value < 0.0, value * factor, tl.div_rn(value, factor))
        tl.store(at, value, mask=is_seen)
