"""Batch: the arrays of one step, built from a scheduled batch. NumPy; torch begins in the runner.

T tokens in the step, S sequences, M most blocks of a sequence, R rows of logits to sample. Decoding
sequences come first, those with a common prefix adjacent; then chunks of prompts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.execution.prefix_groups import attention_groups, prefix_path
from thothy_batch.engine.execution.state_slots import StateSlots
from thothy_batch.engine.kv_cache.allocator import Copy
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class Batch:
    """Input of a model runner for one step. Valid until the builder's next call.

    Lists have one array per layer group.
    """

    token_ids: Int64Array  # [T]
    positions: Int64Array  # [T]
    slot_mappings: list[Int64Array]  # [T]: block_id * block_size + offset
    cu_seqlens: Int32Array  # [S + 1]
    context_lens: Int32Array  # [S], this step's tokens included
    block_tables: list[Int32Array]  # [S, M], -1 pads
    shared: Int32Array  # [N, 4]: sequences [first, end) share positions [start, end)
    max_query_len: int
    logits_rows: Int64Array  # [R]: tokens whose logits are sampled, one entry per sample
    temperature: Float32Array  # [R]
    top_k: Int32Array  # [R]
    top_p: Float32Array  # [R]
    seeds: Int64Array  # [R]
    sample_positions: Int64Array  # [R]: index of the drawn token within its sequence
    penalties: list[tuple[int, float, Int32Array]]  # (row, penalty, its tokens so far)
    copies: list[Copy]  # (layer group, source block, target block), before anything else
    block_size: int
    num_decoding: int = 0  # decoding sequences; they come first
    rope_offsets: Int64Array | None = None  # [T]: see `rope_offset_of`; None: all 0
    # For a launcher that keeps state, in place of `penalties`; else empty. Token ids of decoding
    # sequences are then the last ones drawn for their slots: the host may not know them yet.
    slots: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))  # [R], each once
    penalty: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))  # [R]
    # [R]: the last position that the row's sequence computes.
    limits: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    seen: list[tuple[int, Int32Array]] = field(default_factory=list)  # (slot, tokens): new ones

    @property
    def rope_rows(self) -> Int64Array:
        """The rows of the rope's table for this step's tokens, int64 [T]."""
        return self.positions if self.rope_offsets is None else self.positions + self.rope_offsets

    def advance(self, token_ids: Int64Array) -> None:
        """Advance a decode batch to the next step. `token_ids` [S]: just drawn.

        Block tables and sampling do not change: a batch ends before a block is missing.
        """
        self.token_ids[:] = token_ids
        self.positions += 1
        self.context_lens += 1
        self.sample_positions += 1
        self.copies = []
        self.penalties = [
            (row, penalty, np.append(seen, token_ids[row]).astype(np.int32))
            for row, penalty, seen in self.penalties
        ]
        seq_of = np.arange(len(self.positions))
        for table, slot_mapping in zip(self.block_tables, self.slot_mappings, strict=True):
            map_slots(table, seq_of, self.positions, self.block_size, slot_mapping)


def map_slots(
    tables: Int32Array, seq_of: Int64Array, positions: Int64Array, block_size: int, out: Int64Array
) -> None:
    """Write the slot of each token to `out`; `seq_of`: each token's row of `tables`."""
    block, offset = np.divmod(positions, block_size)
    np.multiply(tables[seq_of, block], block_size, out=out)
    out += offset


class BatchBuilder:
    """Builds batches in reused buffers. `slots`: for a launcher that keeps state."""

    def __init__(self, layout: KVLayout, slots: StateSlots | None = None) -> None:
        self._slots = slots
        self._block_size = layout.block_size
        self._is_windowed = layout.groups[0].window is not None
        self._buffers: dict[str, npt.NDArray[np.generic]] = {}
        self._grouped: list[Sequence] = []  # that `_shared` is for
        self._shared: Int32Array = np.empty((0, 4), np.int32)

    def build(self, scheduled: ScheduledBatch) -> Batch:
        """Build the batch of the first step."""
        decoding, chunks = scheduled.decoding.seqs, scheduled.chunks
        seqs = [*decoding, *(chunk.seq for chunk in chunks)]
        starts = self._fill("starts", np.int64, [seq.num_computed for seq in decoding])
        starts = np.concatenate((starts, [chunk.start for chunk in chunks])).astype(np.int64)
        lens = np.ones(len(seqs), np.int64)
        if scheduled.drafts:
            lens[: len(decoding)] += [len(scheduled.drafts.get(seq, ())) for seq in decoding]
        lens[len(decoding) :] = [chunk.num_tokens for chunk in chunks]
        ends = np.cumsum(lens)
        T = int(ends[-1])
        cu_seqlens = self._buffer("cu_seqlens", np.int32, len(seqs) + 1)
        cu_seqlens[0], cu_seqlens[1:] = 0, ends
        seq_of = np.repeat(np.arange(len(seqs)), lens)
        positions = self._buffer("positions", np.int64, T)
        np.add((starts - (ends - lens))[seq_of], np.arange(T), out=positions)
        context_lens = self._buffer("context_lens", np.int32, len(seqs))
        context_lens[:] = starts + lens
        tables = [self._fill_tables(seqs, g) for g in range(len(seqs[0].tables))]
        slots = [self._buffer(f"slots{g}", np.int64, T) for g in range(len(tables))]
        for table, slot_mapping in zip(tables, slots, strict=True):
            map_slots(table, seq_of, positions, self._block_size, slot_mapping)
        return self._with_sampling(
            scheduled,
            Batch(
                token_ids=self._fill_tokens(scheduled, T),
                positions=positions,
                slot_mappings=slots,
                cu_seqlens=cu_seqlens,
                context_lens=context_lens,
                block_tables=tables,
                shared=self._groups(decoding),
                max_query_len=int(lens.max()),
                logits_rows=np.empty(0, np.int64),
                temperature=np.empty(0, np.float32),
                top_k=np.empty(0, np.int32),
                top_p=np.empty(0, np.float32),
                seeds=np.empty(0, np.int64),
                sample_positions=np.empty(0, np.int64),
                penalties=[],
                copies=scheduled.copies,
                block_size=self._block_size,
                num_decoding=len(decoding),
                rope_offsets=_rope_offsets(seqs, lens),
            ),
        )

    def _with_sampling(self, scheduled: ScheduledBatch, batch: Batch) -> Batch:
        """Fill in the parameters of the sampled rows."""
        rows, ahead = _sampling_rows(scheduled)
        sampling = [seq.state.request.sampling for seq, _, _ in rows]
        batch.logits_rows = self._fill("logits_rows", np.int64, [row for _, row, _ in rows])
        batch.temperature = self._fill("temperature", np.float32, [s.temperature for s in sampling])
        batch.top_k = self._fill("top_k", np.int32, [s.top_k for s in sampling])
        batch.top_p = self._fill("top_p", np.float32, [s.top_p for s in sampling])
        batch.seeds = self._fill(
            "seeds", np.int64, [seq.seed_of(seq.sample + fork) for seq, _, fork in rows]
        )
        batch.sample_positions = self._fill(
            "sample_positions", np.int64, [seq.num_tokens for seq, _, _ in rows]
        )
        if scheduled.drafts:
            batch.sample_positions += ahead
        penalized = [
            (index, s.repetition_penalty)
            for index, s in enumerate(sampling)
            if s.repetition_penalty != 1.0
        ]
        if self._slots is None:
            batch.penalties = [
                (index, penalty, _all_tokens(rows[index][0])) for index, penalty in penalized
            ]
            return batch
        batch.slots = self._fill(
            "slots", np.int64, [self._slots.of(seq, seq.sample + fork) for seq, _, fork in rows]
        )
        # The last token is drawn but never computed.
        batch.limits = self._fill("limits", np.int64, [seq.max_len - 2 for seq, _, _ in rows])
        batch.penalty = self._fill("penalty", np.float32, [s.repetition_penalty for s in sampling])
        batch.seen = [
            (int(batch.slots[index]), _all_tokens(rows[index][0]))
            for index, _ in penalized
            if index >= batch.num_decoding
        ]
        return batch

    def _groups(self, seqs: list[Sequence]) -> Int32Array:
        """Return the groups of the decoding sequences, recomputed when the list changes."""
        # Through a window each sequence sees a different part of a prefix.
        if seqs is not self._grouped and not self._is_windowed:
            groups = attention_groups([prefix_path(seq, self._block_size) for seq in seqs])
            self._shared = np.array(groups, np.int32).reshape(-1, 4)
            self._grouped = seqs
        return self._shared

    def _fill_tables(self, seqs: list[Sequence], g: int) -> Int32Array:
        lens = np.fromiter((len(seq.tables[g]) for seq in seqs), np.int64, len(seqs))
        M = int(lens.max())
        flat: Int32Array = self._buffer(f"tables{g}", np.int32, len(seqs) * M)
        tables = flat.reshape(len(seqs), M)
        tables.fill(-1)
        block_ids = b"".join(seq.tables[g] for seq in seqs)
        tables[np.arange(M) < lens[:, None]] = np.frombuffer(block_ids, np.int32)
        return tables

    def _fill_tokens(self, scheduled: ScheduledBatch, T: int) -> Int64Array:
        out: Int64Array = self._buffer("token_ids", np.int64, T)
        seqs, drafts = scheduled.decoding.seqs, scheduled.drafts
        # A launcher that keeps state has the last tokens already.
        out[: len(seqs)] = 0 if self._slots is not None else [seq.last_token for seq in seqs]
        at = len(seqs)
        if drafts:
            tokens = [token for seq in seqs for token in (seq.last_token, *drafts.get(seq, ()))]
            at = len(tokens)
            out[:at] = tokens
        for chunk in scheduled.chunks:
            end = chunk.start + chunk.num_tokens
            out[at : at + chunk.num_tokens] = chunk.seq.tokens(chunk.start, end)
            at += chunk.num_tokens
        return out

    def _fill(self, name: str, dtype: type[np.generic], values: Iterable[float]) -> npt.NDArray:  # type: ignore[type-arg]
        values = list(values)
        out = self._buffer(name, dtype, len(values))
        out[:] = values
        return out

    def _buffer(self, name: str, dtype: type[np.generic], size: int) -> npt.NDArray:  # type: ignore[type-arg]
        """Return a buffer's first `size` elements; it grows with the largest batch."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(max(size, 256), dtype)
        return buffer[:size]


def _rope_offsets(seqs: list[Sequence], lens: Int64Array) -> Int64Array | None:
    if not any(seq.rope_offset for seq in seqs):
        return None
    return np.repeat(np.array([seq.rope_offset for seq in seqs], np.int64), lens)


def _sampling_rows(
    scheduled: ScheduledBatch,
) -> tuple[list[tuple[Sequence, int, int]], Int64Array]:
    """Return each sampled row's sequence, token index and fork, and its distance in tokens.

    The distance, int64 [R], is the drawn token's position after the sequence's known tokens.
    """
    rows: list[tuple[Sequence, int, int]] = []
    ahead: list[int] = []
    for seq in scheduled.decoding.seqs:
        for distance in range(1 + len(scheduled.drafts.get(seq, ()))):
            rows.append((seq, len(rows), 0))
            ahead.append(distance)
    at = len(rows)
    for chunk in scheduled.chunks:
        at += chunk.num_tokens
        rows += [(chunk.seq, at - 1, sample) for sample in range(chunk.num_rows)]
        ahead += [0] * chunk.num_rows
    return rows, np.array(ahead, np.int64)


def _all_tokens(seq: Sequence) -> Int32Array:
    assert seq.num_output == len(seq.output_ids), "a token is not known yet"
    return seq.tokens(0, seq.num_tokens)
