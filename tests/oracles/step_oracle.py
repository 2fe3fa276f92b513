"""The step state in plain Python, of lists and sets: what decode steps come to."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from thothy_kernels.step_state import DecodeInputs, StateTable

V, NUM_SLOTS = 75, 20  # vocabulary and sequences, of every simulation


@dataclass
class Simulation:
    """A decode step's inputs and the state of its sequences, in plain Python."""

    inputs: dict[str, list[Any]]  # by the names of DecodeInputs
    ring: list[list[int]]
    block_size: int
    counter: int = 0
    last: list[int] = field(default_factory=lambda: [0] * (NUM_SLOTS + 1))
    seen: list[set[int]] = field(default_factory=lambda: [set() for _ in range(NUM_SLOTS + 1)])

    def advance(self, drawn: list[int]) -> None:
        for row, token in enumerate(drawn):
            self.ring[self.counter % len(self.ring)][row] = token
            if self.inputs["context_lens"][row] > 0:
                self._advance_row(row, token)
            for group, block_table in enumerate(self.inputs["block_tables"]):
                slot = self._slot(row, block_table[row])
                self.inputs["slot_mappings"][group][row] = slot
        self.counter += 1

    def _advance_row(self, row: int, token: int) -> None:
        slot = self.inputs["slots"][row]
        if slot < NUM_SLOTS:
            self.last[slot] = max(token, 0)
            self.seen[slot] |= {token} - {-1}
        self.inputs["token_ids"][row] = max(token, 0)
        for name in ("positions", "context_lens", "sample_positions"):
            self.inputs[name][row] += 1
        if self.inputs["positions"][row] > self.inputs["limits"][row]:
            self.inputs["context_lens"][row] = 0

    def _slot(self, row: int, block_ids: list[int]) -> int:
        column, offset = divmod(self.inputs["positions"][row], self.block_size)
        is_stored = self.inputs["context_lens"][row] > 0 and column < len(block_ids)
        if not is_stored or block_ids[column] == -1:
            return -1
        return block_ids[column] * self.block_size + offset


def simulation_of(S: int, num_groups: int, seed: int, block_size: int = 4) -> Simulation:
    """Rows in the middle of their sequences, some of them padding; blocks end, or lack."""
    rng = np.random.default_rng(seed)
    context_lens = rng.integers(1, 14, S)
    context_lens[rng.random(S) < 0.25] = 0
    if S > 1:
        context_lens[-1] = 0
    slots = np.where(context_lens > 0, np.resize(rng.permutation(NUM_SLOTS), S), NUM_SLOTS)
    # As many columns as 12 to 24 tokens need, and some entries that are no block.
    shapes = [(S, 3 + group % 4) for group in range(num_groups)]
    block_tables = [rng.integers(-1, 2**28, shape) for shape in shapes]
    for block_table in block_tables:
        block_table[rng.random(block_table.shape) < 0.1] = -1
    inputs = {
        "token_ids": rng.integers(0, V, S),
        "positions": np.maximum(context_lens - 1, 0),
        "context_lens": context_lens,
        "sample_positions": context_lens,
        "slots": slots,
        "limits": np.maximum(context_lens - 1, 0) + rng.integers(0, 25, S),
    }
    inputs = {name: value.tolist() for name, value in inputs.items()}
    inputs["block_tables"] = [block_table.tolist() for block_table in block_tables]
    inputs["slot_mappings"] = [[-1] * S for _ in range(num_groups)]
    return Simulation(inputs, [[-7] * (S + 2) for _ in range(3)], block_size)


def inputs_of(simulation: Simulation, device: str = "cpu") -> DecodeInputs:
    """Its tensors; the rows of block tables lie apart, with what is no block between."""

    def vector(name: str, value: list[int]) -> torch.Tensor:
        dtype = torch.int32 if name == "context_lens" else torch.int64
        return torch.tensor(value, dtype=dtype, device=device)

    values = {
        name: vector(name, value)
        for name, value in simulation.inputs.items()
        if name not in ("block_tables", "slot_mappings")
    }
    tables = []
    for rows in simulation.inputs["block_tables"]:
        block_table = torch.tensor(rows, dtype=torch.int32, device=device)
        wide = block_table.new_full((len(rows), 9), 1 << 30)
        tables.append(wide[:, : block_table.shape[1]])
        tables[-1].copy_(block_table)
    mappings = [vector("slot_mappings", value) for value in simulation.inputs["slot_mappings"]]
    return DecodeInputs(**values, block_tables=tuple(tables), slot_mappings=tuple(mappings))


def seen_of(table: StateTable) -> list[set[int]]:
    """For each slot the set of its tokens, by numpy's own way with bits."""
    bits = np.unpackbits(table.seen.cpu().numpy().view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]
