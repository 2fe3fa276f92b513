"""Decode state on the device: the inputs of the next decode step without the host.

A running sequence has a slot of the state table. This slot is not the slot of a token in the KV
pool, which slot mappings hold.

N slots, V tokens of the vocabulary, S rows of a decode step, M max blocks per sequence.
"""

from dataclasses import dataclass
from typing import Self

import torch

from thothy_kernels.contract import Implementations, refuse

__all__ = [
    "DecodeInputs",
    "StateTable",
    "advance_inputs",
    "clear_seen",
    "mark_seen",
    "record_tokens",
]

_impls = Implementations(__name__, ("reference", "triton"))


@dataclass(frozen=True, slots=True)
class StateTable:
    """Per-slot state of running sequences on a device: last token and seen tokens.

    Slot N is for padding rows: nothing is ever recorded there, and it stays 0. Raises ValueError
    for shapes and dtypes that do not fit.
    """

    last_tokens: torch.Tensor  # int64 [N + 1]: the token sampled last
    seen: (
        torch.Tensor
    )  # int32 [N + 1, ceil(V / 32)]: bit t % 32 of word t // 32 is set if t occurred

    @classmethod
    def allocate(cls, num_slots: int, vocab_size: int, device: torch.device | str) -> Self:
        """A table of zeros. Raises ValueError unless both numbers are positive."""
        if num_slots < 1 or vocab_size < 1:
            raise ValueError(
                f"StateTable: {num_slots} num_slots and {vocab_size} vocab_size, expected 1 or more"
            )
        last_tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        num_words = -(-vocab_size // 32)
        return cls(
            last_tokens, last_tokens.new_zeros((num_slots + 1, num_words), dtype=torch.int32)
        )

    def __post_init__(self) -> None:
        _check_numbers("StateTable", "last_tokens", self.last_tokens, "N + 1")
        seen, num_rows = self.seen, self.last_tokens.shape[0]
        is_matrix = seen.dim() == 2 and seen.shape[0] == num_rows and seen.shape[1] > 0
        if not is_matrix or seen.dtype != torch.int32 or not seen.is_contiguous():
            refuse("StateTable", "seen", seen, f"contiguous int32 [{num_rows}, ceil(V / 32)]")

    @property
    def num_slots(self) -> int:
        """N, which is also the padding slot."""
        return self.last_tokens.shape[0] - 1


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """Fixed tensors that a decode step of S rows reads; rows with context 0 are padding.

    Raises ValueError for shapes and dtypes that do not fit.
    """

    token_ids: torch.Tensor  # int64 [S]
    positions: torch.Tensor  # int64 [S]
    context_lens: torch.Tensor  # int32 [S]
    sample_positions: torch.Tensor  # int64 [S]: index of the token that is sampled
    slots: torch.Tensor  # int64 [S]: slots of the state table, N for padding
    limits: torch.Tensor  # int64 [S]: the last position that is computed
    block_tables: tuple[torch.Tensor, ...]  # int32 [S, M] per layer group, -1 pads
    slot_mappings: tuple[torch.Tensor, ...]  # int64 [S] per layer group, -1: not stored

    def __post_init__(self) -> None:
        op, S = "DecodeInputs", self.token_ids.shape[0] if self.token_ids.dim() else 0
        for name in ("token_ids", "positions", "sample_positions", "slots", "limits"):
            _check_numbers(op, name, getattr(self, name), S)
        _check_numbers(op, "context_lens", self.context_lens, S, torch.int32)
        if not self.block_tables or len(self.block_tables) != len(self.slot_mappings):
            raise ValueError(
                f"{op}: {len(self.block_tables)} block_tables and {len(self.slot_mappings)} "
                "slot_mappings, expected one of each per layer group"
            )
        for block_table in self.block_tables:
            is_matrix = block_table.dim() == 2 and block_table.shape[0] == S
            if not is_matrix or block_table.dtype != torch.int32 or not block_table.shape[1]:
                refuse(op, "block_tables", block_table, f"int32 [{S}, M]")
            if block_table.stride(1) != 1:
                raise ValueError(f"{op}: rows of block_tables must be contiguous")
        for slot_mapping in self.slot_mappings:
            _check_numbers(op, "slot_mappings", slot_mapping, S)


def record_tokens(
    table: StateTable, slots: torch.Tensor, drawn: torch.Tensor, *, impl: str
) -> None:
    """Record sampled tokens `drawn` int64 [R] of the sequences in slots int64 [R], in place.

    last_tokens[slots] = max(drawn, 0), and the bit of `drawn` is set in seen[slots]. -1 marks a row
    that the sampler refused: it sets no bit, and its 0 keeps the next embedding lookup within the
    vocabulary. Slots are distinct except for padding. Slots and tokens outside the table are
    skipped. Raises ValueError for shapes and dtypes that do not fit.
    """
    _check_pairs("record_tokens", slots, "drawn", drawn)
    _impls[impl].record_tokens(table, slots, drawn)


def mark_seen(
    table: StateTable, slots: torch.Tensor, token_ids: torch.Tensor, *, impl: str
) -> None:
    """Set the bits of token_ids int64 [T] in seen[slots], slots int64 [T], in place.

    It serves prompts: slots and pairs may repeat. Slots and tokens outside the table are skipped.
    Raises ValueError for shapes and dtypes that do not fit.
    """
    _check_pairs("mark_seen", slots, "token_ids", token_ids)
    _impls[impl].mark_seen(table, slots, token_ids)


def clear_seen(table: StateTable, slots: torch.Tensor) -> None:
    """Clear the seen tokens of slots int64 [R], each within the table, in place.

    Raises ValueError for a shape or dtype that does not fit.
    """
    _check_numbers("clear_seen", "slots", slots, "R")
    table.seen.index_fill_(0, slots, 0)


def advance_inputs(
    inputs: DecodeInputs,
    table: StateTable,
    drawn: torch.Tensor,
    ring: torch.Tensor,
    counter: torch.Tensor,
    *,
    block_size: int,
    impl: str,
) -> None:
    """Compute the inputs of the next decode step from `drawn` int64 [S], the sampled tokens.

    Works in place and never reads on the host, so a CUDA graph can capture it.
    ring[counter % K, :S] = drawn, including -1, for ring int64 [K, >= S]; counter int64 [1] grows
    by 1. For rows with a context, the token is recorded as by `record_tokens`, token_ids becomes
    max(drawn, 0), and positions, context_lens and sample_positions grow by 1. Slot mappings become
    block_id * block_size + offset of the new position; -1 if the block table has no block for it.
    Padding rows get slot -1 and are otherwise unchanged. A row whose new position exceeds its limit
    becomes padding: its context becomes 0.

    Raises ValueError for shapes and dtypes that do not fit.
    """
    op, S = "advance_inputs", inputs.token_ids.shape[0]
    _check_numbers(op, "drawn", drawn, S)
    if ring.dim() != 2 or ring.shape[0] < 1 or ring.shape[1] < S or ring.dtype != torch.int64:
        refuse(op, "ring", ring, f"int64 [K, >= {S}]")
    if ring.stride(1) != 1:
        raise ValueError(f"{op}: rows of ring must be contiguous")
    _check_numbers(op, "counter", counter, 1)
    if block_size < 1:
        raise ValueError(f"{op}: block_size is {block_size}, expected 1 or more")
    _impls[impl].advance_inputs(inputs, table, drawn, ring, counter, block_size)


def _check_pairs(op: str, slots: torch.Tensor, name: str, tokens: torch.Tensor) -> None:
    _check_numbers(op, "slots", slots, "R")
    _check_numbers(op, name, tokens, slots.shape[0])


def _check_numbers(
    op: str, name: str, value: torch.Tensor, num: int | str, dtype: torch.dtype = torch.int64
) -> None:
    """ValueError unless value is a contiguous vector of `num` elements; a letter allows any."""
    is_vector = value.dim() == 1 and (isinstance(num, str) or value.shape[0] == num)
    if not is_vector or value.dtype != dtype or not value.is_contiguous():
        refuse(op, name, value, f"contiguous {dtype} [{num}]")
