"""Speed on the device of what a decode step adds around the model: its next inputs, and penalties.

A step moves a few kilobytes, and a launch takes longer than they do: what counts is the time, not
the share of the device. Penalties have 1,000 tokens of Qwen's vocabulary that were seen by each
row; their bytes are the bits of all tokens, and a sector of 32 bytes read and written for each
that was seen. The reference, plain torch, stands beside as a comparison.

Run: python tests/bench/bench_step_state.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.sample import penalize_seen
from thothy_kernels.step_state import DecodeInputs, StateTable, advance_inputs, mark_seen

_VOCAB, _NUM_SEEN = 151_936, 1000
_ROWS = (16, 256, 1024)
_BLOCK_SIZE, _MAX_BLOCKS = 32, 128
_SECTOR = 32


def cases(device: str, tiny: bool) -> Iterator[Case]:
    V = 1000 if tiny else _VOCAB
    for S in (3,) if tiny else _ROWS:
        table = StateTable.allocate(S, V, device)
        yield from _advance_cases(S, table, device)
        yield from _penalty_cases(S, V, table, device)


def _advance_cases(S: int, table: StateTable, device: str) -> Iterator[Case]:
    drawn = torch.arange(S, device=device)
    ring, counter = drawn.new_zeros((8, S)), drawn.new_zeros(1)
    for num_groups in (1, 2):
        for impl in ("triton", "reference"):
            inputs = _inputs(S, num_groups, device)
            yield Case(
                f"{_prefix(impl)}advance S={S} groups={num_groups}",
                lambda inputs=inputs, impl=impl: advance_inputs(
                    *(inputs, table, drawn, ring, counter), block_size=_BLOCK_SIZE, impl=impl
                ),
                # A token read and stored three times, three numbers that grow, a bit set in a word.
                num_bytes=S * (4 * 8 + 8 + 2 * (8 + 8 + 4) + 2 * 4 + num_groups * (4 + 8)),
            )


def _inputs(S: int, num_groups: int, device: str) -> DecodeInputs:
    rows = torch.arange(S, device=device)
    blocks = torch.arange(S * _MAX_BLOCKS, dtype=torch.int32, device=device).view(S, _MAX_BLOCKS)
    positions = rows * 7 % 2000
    return DecodeInputs(
        rows.clone(),
        positions,
        (positions + 1).int(),
        positions + 1,
        rows,
        torch.full_like(rows, _MAX_BLOCKS * _BLOCK_SIZE - 1),
        tuple(blocks.clone() for _ in range(num_groups)),
        tuple(rows.clone() for _ in range(num_groups)),
    )


def _penalty_cases(R: int, V: int, table: StateTable, device: str) -> Iterator[Case]:
    generator = torch.Generator(device).manual_seed(R)
    logits = torch.randn(R, V, device=device, generator=generator)
    slots, penalty = torch.arange(R, device=device), torch.full((R,), 1.1, device=device)
    tokens = torch.randint(0, V, (R * _NUM_SEEN,), device=device, generator=generator)
    mark_seen(table, slots.repeat(_NUM_SEEN), tokens, impl="triton")
    for impl in ("triton", "reference"):
        yield Case(
            f"{_prefix(impl)}penalize R={R}",
            lambda impl=impl: penalize_seen(logits, table.seen, slots, penalty, impl=impl),
            num_bytes=table.seen.nbytes + 2 * _SECTOR * R * _NUM_SEEN,
        )


def _prefix(impl: str) -> str:
    return "" if impl == "triton" else "torch "


if __name__ == "__main__":
    main(cases, __doc__)
