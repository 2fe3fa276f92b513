"""A decoder fed by hand: its own blocks, in a pool whose other slots are poisoned."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rounding_oracle import Rounding, logits_of

from thothy_batch.model.config.model_config import layer_groups
from thothy_batch.model.inputs import ForwardInputs, GroupInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel
from thothy_kernels.paged_attention import AttentionMetadata

BLOCK_SIZE = 8
# A draw's mean square spreads like that of 75 numbers at least (by 20 draws of each variant: 75 to
# 1,200). So a computation goes beyond 1.25² / 0.54 = 2.9 times the mean square that is expected of
# it (see rounding_oracle) with a probability of exp(-75 / 2 * (1.9 - ln 2.9)) = 3e-14.
NUM_DRAWS = 4
MOST_OVER_DRAWN = 1.25
# By layer group: the blocks of a sequence.
Table = list[list[int]]


class Feeder:
    """Feeds prompts to a decoder, whole or in parts, alone or with others, in a poisoned pool."""

    def __init__(self, model: LoadedModel, *, impl: str = "reference", num_pages: int = 96) -> None:
        self.model = model
        self.groups = layer_groups(model.config)
        self.pool = KVPool.allocate(model.config, num_pages, BLOCK_SIZE, model.dtype, impl=impl)
        for tensor in (self.pool.k, self.pool.v):
            tensor.fill_(float("nan"))  # a read outside a sequence's own slots would show
        self._free = [self._blocks_of(number, num_pages) for number in range(len(self.groups))]

    def _blocks_of(self, number: int, num_pages: int) -> list[int]:
        """Blocks in every so-many-th large page, out of order."""
        sizes = [len(group.layers) for group in self.groups]
        per_page = math.lcm(*sizes) // sizes[number]
        pages = list(range(number, num_pages, len(sizes)))
        pages = pages[::-2] + pages[len(pages) % 2 :: 2]
        return [page * per_page + i for page in pages for i in range(per_page)]

    def table(self, num_tokens: int) -> Table:
        """Blocks for that many tokens, not side by side."""
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        return [[free.pop() for _ in range(num_blocks)] for free in self._free]

    def step(self, parts: list[tuple[list[int], int, Table]], rows: str = "all") -> torch.Tensor:
        """Compute (token ids so far, of them computed, block table) of each sequence in one step.

        Returns logits of all new tokens, of the last of each sequence, or of none.
        """
        token_ids = [token for ids, done, _ in parts for token in ids[done:]]
        positions = [position for ids, done, _ in parts for position in range(done, len(ids))]
        ends = torch.tensor([len(ids) - done for ids, done, _ in parts]).cumsum(0)
        wanted = {"all": torch.arange(len(token_ids)), "last": ends - 1, "none": ends[:0]}[rows]
        inputs = ForwardInputs(
            torch.tensor(token_ids),
            torch.tensor(positions),
            tuple(self._group_inputs(number, parts) for number in range(len(self.groups))),
            wanted,
        )
        return self.model.decoder.forward(inputs, self.pool)

    def _group_inputs(self, number: int, parts: list[tuple[list[int], int, Table]]) -> GroupInputs:
        slots, tables, cu, window = [], [], [0], self.groups[number].window
        for ids, done, by_group in parts:
            table = by_group[number]
            for position in range(done, len(ids)):
                slots.append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
            # Blocks that no query sees any more have been given to others.
            gone = 0 if window is None else max(0, done - window + 1) // BLOCK_SIZE
            tables.append([-1] * gone + table[gone:])
            cu.append(cu[-1] + len(ids) - done)
        width = max(len(table) for table in tables)
        meta = AttentionMetadata(
            torch.tensor(cu, dtype=torch.int32),
            torch.tensor([len(ids) for ids, _, _ in parts], dtype=torch.int32),
            torch.tensor([t + [-1] * (width - len(t)) for t in tables], dtype=torch.int32),
            max(len(ids) - done for ids, done, _ in parts),
            window=window,
        )
        return GroupInputs(torch.tensor(slots), meta)

    def logits(self, ids: list[int]) -> torch.Tensor:
        """Logits of every position of a prompt computed alone and whole."""
        return self.step([(ids, 0, self.table(len(ids)))])

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt by the most likely token, one at a time."""
        ids, done = list(prompt), 0
        table = self.table(len(prompt) + num_tokens)
        for _ in range(num_tokens):
            logits = self.step([(ids, done, table)], rows="last")
            done = len(ids)
            ids.append(int(logits[0].argmax()))
        return ids[len(prompt) :]


@pytest.fixture
def feeder() -> type[Feeder]:
    return Feeder


@pytest.fixture(scope="session")
def float64_logits(
    make_checkpoint: Callable[..., tuple[Path, Any]],
) -> Callable[..., tuple[torch.Tensor, float]]:
    """A variant's logits by transformers in float64, with the weights as `dtype` has them, and the
    largest root mean square by which a computation in `dtype` may miss them."""
    known: dict[object, tuple[torch.Tensor, float]] = {}

    def compute(variant: str, ids: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        key = variant, tuple(ids), dtype
        if key not in known:
            model = copy.deepcopy(make_checkpoint(variant)[1]).to(dtype).double()
            model.set_attn_implementation("eager")
            exact, *rounded = [
                logits_of(model, ids, Rounding(*form))
                for form in ((), *((dtype, seed) for seed in range(NUM_DRAWS)))
            ]
            mean_square = (torch.stack(rounded) - exact).square().mean()
            known[key] = exact, MOST_OVER_DRAWN * float(mean_square.sqrt())
        return known[key]

    return compute
