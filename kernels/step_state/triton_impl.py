"""step_state on a CUDA device: one launch advances a decode step of one layer group."""

import torch
import triton
import triton.language as tl

from thothy_kernels.launch import Variant, check_device
from thothy_kernels.step_state import DecodeInputs, StateTable

# Rows per iteration of the single program that advances a step: the largest steps take one
# iteration of four rows a thread. With fewer rows than threads, several threads would read a row,
# and one of them could read values that another has advanced already.
_ADVANCED, _ADVANCE_WARPS = 1024, 8
# Pairs or rows per program of the other kernels: one per thread.
_ROWS, _NUM_WARPS = 128, 4


@triton.jit
def record_rows(  # type: ignore[no-untyped-def]
    last_tokens, seen, slots, token_ids, num_slots, num_words, IS_DRAWN: tl.constexpr
):
    """Record token_ids in slots, both int64 [ROWS], to the table; slot -1 is skipped. With IS_DRAWN
    each token is also stored as the last one."""
    is_slot = (slots >= 0) & (slots < num_slots)
    if IS_DRAWN:
        tl.store(last_tokens + slots, tl.maximum(token_ids, 0), mask=is_slot)
    words = token_ids // 32
    is_token = is_slot & (token_ids >= 0) & (words < num_words)
    bits = tl.full(token_ids.shape, 1, tl.int32) << (token_ids % 32).to(tl.int32)
    tl.atomic_or(seen + slots * num_words + words, bits, mask=is_token, sem="relaxed")


@triton.jit(do_not_specialize=["num_slots", "num_words", "num_rows"])
def record_kernel(  # type: ignore[no-untyped-def]
    last_tokens, seen, slots, token_ids, num_slots, num_words, num_rows,
    IS_DRAWN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Record BLOCK rows: see `record_rows`."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < num_rows
    slot = tl.load(slots + rows, mask=is_row, other=-1)
    token_id = tl.load(token_ids + rows, mask=is_row, other=-1)
    record_rows(last_tokens, seen, slot, token_id, num_slots, num_words, IS_DRAWN)


@triton.jit
def map_rows(  # type: ignore[no-untyped-def]
    block_table, slot_mapping, rows, is_row, position, is_running, M, table_stride,
    BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """slot_mapping = the slot of each position in the KV pool; -1: not stored."""
    column = position // BLOCK_SIZE
    entry = block_table + rows.to(tl.int64) * table_stride + column
    block_id = tl.load(entry, mask=is_running & (column < M), other=-1).to(tl.int64)
    slot = tl.where(block_id >= 0, block_id * BLOCK_SIZE + position % BLOCK_SIZE, -1)
    tl.store(slot_mapping + rows, slot, mask=is_row)


@triton.jit(do_not_specialize=["S", "M", "table_stride"])
def map_kernel(  # type: ignore[no-untyped-def]
    positions, context_lens, block_table, slot_mapping, S, M, table_stride,
    BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the slot mapping of BLOCK rows after their positions advanced."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < S
    is_running = tl.load(context_lens + rows, mask=is_row, other=0) > 0
    position = tl.load(positions + rows, mask=is_row, other=0)
    map_rows(
        block_table, slot_mapping, rows, is_row, position, is_running, M, table_stride, BLOCK_SIZE
    )


@triton.jit(
    do_not_specialize=["K", "S", "M", "table_stride", "ring_stride", "num_slots", "num_words"]
)
def advance_kernel(  # type: ignore[no-untyped-def]
    token_ids, positions, context_lens, sample_positions, slots, limits, block_table, slot_mapping,
    last_tokens, seen, drawn, ring, counter,
    K, S, M, table_stride, ring_stride, num_slots, num_words,
    BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Advance a whole step with its first layer group, BLOCK rows at a time.

    There is one program, because several could read the counter after one has incremented it. The
    atomic gives all threads of the program the same number.
    """
    drawn_now = ring + tl.atomic_add(counter, 1) % K * ring_stride
    for first in range(0, S, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        is_row = rows < S
        token_id = tl.load(drawn + rows, mask=is_row, other=-1)
        tl.store(drawn_now + rows, token_id, mask=is_row)
        context_len = tl.load(context_lens + rows, mask=is_row, other=0)
        is_running = context_len > 0
        slot = tl.load(slots + rows, mask=is_running, other=-1)
        record_rows(last_tokens, seen, slot, token_id, num_slots, num_words, True)
        position = tl.load(positions + rows, mask=is_running, other=0) + 1
        sample_position = tl.load(sample_positions + rows, mask=is_running, other=0) + 1
        tl.store(token_ids + rows, tl.maximum(token_id, 0), mask=is_running)
        goes_on = position <= tl.load(limits + rows, mask=is_running, other=-1)
        tl.store(context_lens + rows, tl.where(goes_on, context_len + 1, 0), mask=is_running)
        tl.store(positions + rows, position, mask=is_running)
        tl.store(sample_positions + rows, sample_position, mask=is_running)
        map_rows(
            block_table, slot_mapping, rows, is_row, position, is_running & goes_on, M,
            table_stride, BLOCK_SIZE,
        )  # fmt: skip


def record_tokens(table: StateTable, slots: torch.Tensor, drawn: torch.Tensor) -> None:
    check_device("record_tokens", table.last_tokens, table.seen, slots, drawn)
    _record(table, slots, drawn, is_drawn=True)


def mark_seen(table: StateTable, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
    check_device("mark_seen", table.last_tokens, table.seen, slots, token_ids)
    _record(table, slots, token_ids, is_drawn=False)


def _record(
    table: StateTable, slots: torch.Tensor, token_ids: torch.Tensor, *, is_drawn: bool
) -> None:
    num_rows = slots.shape[0]
    if num_rows == 0:
        return
    record_kernel[(triton.cdiv(num_rows, _ROWS),)](
        *(table.last_tokens, table.seen, slots, token_ids),
        *(table.num_slots, table.seen.shape[1], num_rows),
        IS_DRAWN=is_drawn,
        BLOCK=_ROWS,
        num_warps=_NUM_WARPS,
    )


def advance_inputs(
    inputs: DecodeInputs,
    table: StateTable,
    drawn: torch.Tensor,
    ring: torch.Tensor,
    counter: torch.Tensor,
    block_size: int,
) -> None:
    rows = (inputs.token_ids, inputs.positions, inputs.context_lens, inputs.sample_positions)
    groups = tuple(zip(inputs.block_tables, inputs.slot_mappings, strict=True))
    state = (table.last_tokens, table.seen, drawn, ring, counter)
    check_device("advance_inputs", *rows, inputs.slots, inputs.limits, *sum(groups, ()), *state)
    S = drawn.shape[0]
    (block_table, slot_mapping), *others = groups
    advance_kernel[(1,)](
        *(*rows, inputs.slots, inputs.limits, block_table, slot_mapping, *state),
        *(len(ring), S, *_shape(block_table), ring.stride(0), table.num_slots, table.seen.shape[1]),
        BLOCK_SIZE=block_size,
        BLOCK=_ADVANCED,
        num_warps=_ADVANCE_WARPS,
    )
    for block_table, slot_mapping in others if S else ():
        map_kernel[(triton.cdiv(S, _ROWS),)](
            *(inputs.positions, inputs.context_lens, block_table, slot_mapping),
            *(S, *_shape(block_table)),
            BLOCK_SIZE=block_size,
            BLOCK=_ROWS,
            num_warps=_NUM_WARPS,
        )


def _shape(block_table: torch.Tensor) -> tuple[int, int]:
    """(M, stride of rows)."""
    return block_table.shape[1], block_table.stride(0)


def variants() -> list[Variant]:
    """Variants for blocks of 16 and 32 tokens; the number of rows is not a constant."""
    record = dict.fromkeys(("last_tokens", "slots", "token_ids"), "*i64")
    record |= dict.fromkeys(("num_slots", "num_words", "num_rows"), "i32")
    groups = {"positions": "*i64", "context_lens": "*i32", "block_table": "*i32"}
    groups |= {"slot_mapping": "*i64", **dict.fromkeys(("S", "M", "table_stride"), "i32")}
    step = ("token_ids", "sample_positions", "slots", "limits", "last_tokens", "drawn", "ring")
    advance = dict.fromkeys((*step, "counter"), "*i64") | groups | {"seen": "*i32"}
    advance |= dict.fromkeys(("K", "ring_stride", "num_slots", "num_words"), "i32")
    sizes = [{"BLOCK_SIZE": block_size} for block_size in (16, 32)]
    return [
        *(
            Variant(
                name,
                record_kernel,
                record | {"seen": "*i32"},
                {"IS_DRAWN": is_drawn, "BLOCK": _ROWS},
                _NUM_WARPS,
            )
            for name, is_drawn in (("record_tokens", True), ("mark_seen", False))
        ),
        *(
            Variant(
                f"advance_{size['BLOCK_SIZE']}",
                advance_kernel,
                advance,
                size | {"BLOCK": _ADVANCED},
                _ADVANCE_WARPS,
            )
            for size in sizes
        ),
        *(
            Variant(
                f"map_{size['BLOCK_SIZE']}",
                map_kernel,
                groups,
                size | {"BLOCK": _ROWS},
                _NUM_WARPS,
            )
            for size in sizes
        ),
    ]
