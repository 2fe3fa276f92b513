"""step_state in plain torch: the definition. The host reads no values, on any device."""

import torch

from thothy_kernels.step_state import DecodeInputs, StateTable


def record_tokens(table: StateTable, slots: torch.Tensor, drawn: torch.Tensor) -> None:
    # Padding, and slots outside the table, write a 0 to the padding slot.
    is_slot = (slots >= 0) & (slots < table.num_slots)
    tokens = torch.where(is_slot, drawn.clamp(min=0), 0)
    table.last_tokens[torch.where(is_slot, slots, table.num_slots)] = tokens
    mark_seen(table, slots, drawn)


def mark_seen(table: StateTable, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
    num_tokens = 32 * table.seen.shape[1]
    num_bits = table.num_slots * num_tokens
    is_slot = (slots >= 0) & (slots < table.num_slots)
    is_token = (token_ids >= 0) & (token_ids < num_tokens)
    # Bits are numbered across the table and sorted, so that a repeated one is added once.
    bits = torch.where(is_slot & is_token, slots * num_tokens + token_ids, num_bits).sort().values
    is_first = bits.diff(prepend=bits.new_full((1,), -1)) != 0
    words = table.seen.view(-1)
    is_set = (words[bits // 32] >> bits % 32) & 1 != 0
    is_added = is_first & ~is_set & (bits < num_bits)
    words.index_add_(0, bits // 32, torch.where(is_added, 1 << bits % 32, 0).int())


def advance_inputs(
    inputs: DecodeInputs,
    table: StateTable,
    drawn: torch.Tensor,
    ring: torch.Tensor,
    counter: torch.Tensor,
    block_size: int,
) -> None:
    ring[:, : len(drawn)].index_copy_(0, counter % len(ring), drawn[None])
    counter.add_(1)
    is_running = inputs.context_lens > 0
    record_tokens(table, torch.where(is_running, inputs.slots, table.num_slots), drawn)
    inputs.token_ids.copy_(torch.where(is_running, drawn.clamp(min=0), inputs.token_ids))
    for numbers in (inputs.positions, inputs.context_lens, inputs.sample_positions):
        numbers.add_(is_running)
    is_running = is_running & (inputs.positions <= inputs.limits)
    inputs.context_lens.mul_(is_running)
    columns, offsets = inputs.positions // block_size, inputs.positions % block_size
    for block_table, slot_mapping in zip(inputs.block_tables, inputs.slot_mappings, strict=True):
        M = block_table.shape[1]
        block_ids = block_table.gather(1, columns.clamp(max=M - 1)[:, None])[:, 0].long()
        is_stored = is_running & (columns < M) & (block_ids >= 0)
        slot_mapping.copy_(torch.where(is_stored, block_ids * block_size + offsets, -1))
