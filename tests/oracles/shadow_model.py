"""Shadow model: simulates KV memory, so that a wrong block shows in the next token."""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.execution.batch import Batch

STOP_ID = 0
VOCAB = 16


def next_token(context: Sequence[int], seed: int) -> int:
    """Return a token that changes with any token of the context."""
    return zlib.crc32(np.asarray([*context, seed], np.int64).tobytes()) % VOCAB


class ShadowRunner:
    """Stores in every slot the token whose KV would be there, and reads contexts from slots.

    Each layer group has its own slots, in the same memory: group g's block b is its part of large
    page b // blocks_per_page[g]. A window's layers must hold what the window sees.
    """

    def __init__(self, layout: KVLayout, num_pages: int) -> None:
        self.layout = layout
        units = num_pages * layout.page_units
        self.kv = np.full((units, layout.block_size), -1, np.int64)
        self.fail_next = False
        self.num_tokens: list[int] = []  # of each step

    def run(self, batch: Batch) -> np.ndarray:
        for g, source, target in batch.copies:
            slots = self._blocks(g)
            slots[target] = slots[source]
        for g, mapping in enumerate(batch.slot_mappings):
            assert len(set(mapping.tolist())) == len(mapping)
            block, offset = np.divmod(mapping, self.layout.block_size)
            self._blocks(g)[block, :, offset] = batch.token_ids[:, None]
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the forward pass failed")
        self.num_tokens.append(len(batch.token_ids))
        self._check_groups(batch)
        drawn = []
        for row, token_row in enumerate(batch.logits_rows.tolist()):
            seq = int(np.searchsorted(batch.cu_seqlens, token_row, side="right")) - 1
            length = int(batch.positions[token_row]) + 1
            assert length <= batch.context_lens[seq]
            assert length == batch.sample_positions[row]
            drawn.append(next_token(self._context(batch, seq, length), int(batch.seeds[row])))
        return np.array(drawn, np.int64)

    def _blocks(self, g: int) -> np.ndarray:
        """Return the slots of a group: [B, layers, block_size]."""
        num_layers = len(self.layout.groups[g].layers)
        return self.kv.reshape(-1, num_layers, self.layout.block_size)

    def _context(self, batch: Batch, seq: int, length: int) -> list[int]:
        """Return the tokens the first group sees; the other groups must hold the same."""
        seen: list[int] = []
        for g, group in enumerate(self.layout.groups):
            first = 0 if group.window is None else max(0, length - group.window)
            positions = np.arange(first, length)
            block, offset = np.divmod(positions, self.layout.block_size)
            table = batch.block_tables[g][seq][block]
            assert (table >= 0).all(), "a block that the window sees is gone"
            tokens = self._blocks(g)[table, :, offset]
            assert (tokens == tokens[:, :1]).all(), "layers of a group differ"
            seen = seen or tokens[:, 0].tolist()
            assert seen[len(seen) - len(positions) :] == tokens[:, 0].tolist()
        return seen

    def _check_groups(self, batch: Batch) -> None:
        """Check that sequences of a group share blocks that all of their queries see."""
        table, block_size = batch.block_tables[0], self.layout.block_size
        for first, end, start, stop in batch.shared.tolist():
            assert start % block_size == stop % block_size == 0
            assert start < stop
            assert first + 1 < end
            num_queries = np.diff(batch.cu_seqlens)[first:end]
            assert (batch.context_lens[first:end] - num_queries >= stop).all()
            if self.layout.groups[0].window is None:
                part = table[first:end, start // block_size : stop // block_size]
                assert (part == part[:1]).all(), "a group whose blocks differ"
                assert (part >= 0).all()


class LateLauncher:
    """Launches on the shadow model as a device does: several steps at a time, tokens read later.

    It keeps the last token of each slot and reveals it only when it is read. Sequences that have
    reached their limit are masked.
    """

    keeps_state = True
    max_samples = None

    def __init__(self, runner: ShadowRunner, lookahead: int, max_steps: int) -> None:
        self.lookahead, self.max_steps = lookahead, max_steps
        self._runner = runner
        self._last: dict[int, int] = {}  # by slot
        self._seen: dict[int, list[int]] = {}
        self._batch: Batch | None = None
        self._width = 0
        self._kept = np.empty(0, np.int64)  # rows that are not masked
        self._is_first = True
        self.unread: list[np.ndarray] = []

    def begin(self, batch: Batch) -> None:
        assert not batch.penalties
        assert len(set(batch.slots.tolist())) == len(batch.slots) == len(batch.logits_rows)
        self._batch, self._is_first = copy.deepcopy(batch), True
        self._width, self._kept = len(batch.slots), np.arange(len(batch.slots))
        for row in range(batch.num_decoding):
            self._batch.token_ids[row] = self._last[int(batch.slots[row])]
        for slot, tokens in batch.seen:
            self._seen[slot] = tokens.tolist()

    def launch(self, num_steps: int) -> "LateLauncher._Drawn":
        before = copy.deepcopy((self._last, self._seen))
        try:
            drawn = [self._step() for _ in range(num_steps)]
        except RuntimeError:
            self._last, self._seen = before  # nothing of a failed launch counts
            raise
        self.unread.append(np.array(drawn))
        assert len(self.unread) <= self.lookahead + 1
        return self._Drawn(self)

    def _step(self) -> np.ndarray:
        if not self._is_first:
            self._leave_out_ended()
            batch = self._batch
            batch.advance(np.array([self._last[slot] for slot in batch.slots.tolist()], np.int64))
        self._is_first = False
        batch = self._batch
        drawn = np.full(self._width, -1, np.int64)
        if len(batch.context_lens):
            drawn[self._kept] = self._runner.run(batch)
        for row, slot in enumerate(batch.slots.tolist()):
            token = self._last[slot] = int(drawn[self._kept[row]])
            if batch.penalty[row] != 1.0:
                length = int(batch.sample_positions[row])
                assert len(self._seen[slot]) == length, "a penalised row's tokens are not known"
                self._seen[slot].append(token)
        return drawn

    def _leave_out_ended(self) -> None:
        batch = self._batch
        kept = np.flatnonzero(batch.positions + 1 <= batch.limits)
        if len(kept) == len(batch.limits):
            return
        self._kept = self._kept[kept]
        for name in (
            *("token_ids", "positions", "context_lens", "seeds", "sample_positions", "slots"),
            *("temperature", "top_k", "top_p", "penalty", "limits"),
        ):
            setattr(batch, name, getattr(batch, name)[kept])
        batch.slot_mappings = [slots[kept] for slots in batch.slot_mappings]
        batch.block_tables = [table[kept] for table in batch.block_tables]
        batch.cu_seqlens = np.arange(len(kept) + 1, dtype=np.int32)
        batch.logits_rows = np.arange(len(kept))
        batch.shared = np.empty((0, 4), np.int32)

    @dataclass
    class _Drawn:
        launcher: "LateLauncher"

        def tokens(self) -> np.ndarray:
            return self.launcher.unread.pop(0)
