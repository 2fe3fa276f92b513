"""One step's arrays, built from a span. Arrays of numpy: torch begins in the model runner.

T tokens in the step, S sequences, M most blocks of a sequence, R rows that sample.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thothy_batch.engine.span import ScheduledSequence, Span

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class Batch:
    """What a model runner needs to compute one step. Valid until the builder's next call."""

    token_ids: Int64Array  # [T]
    positions: Int64Array  # [T]
    slot_mapping: Int64Array  # [T]: block_id * block_size + offset
    cu_seqlens: Int32Array  # [S + 1]
    context_lens: Int32Array  # [S], this step's tokens included
    block_tables: Int32Array  # [S, M], -1 pads
    max_query_len: int
    logits_rows: Int64Array  # [R]: tokens whose logits are sampled; once per sample
    temperature: Float32Array  # [R]
    top_k: Int32Array  # [R]
    top_p: Float32Array  # [R]
    seeds: Int64Array  # [R]
    sample_positions: Int64Array  # [R]: index of the token that is drawn, within its sequence
    penalties: "list[tuple[int, float, array[int]]]"  # (row, penalty, its tokens so far)
    copies: list[tuple[int, int]]  # blocks (from, to), before anything else


class BatchBuilder:
    """Builds batches in buffers that it keeps."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._buffers: dict[str, npt.NDArray[np.generic]] = {}

    def build(self, span: Span) -> Batch:
        """The batch of a span's first step."""
        entries = span.entries
        S = len(entries)
        lens = np.fromiter((e.num_tokens for e in entries), np.int64, S)
        starts = np.fromiter((e.start for e in entries), np.int64, S)
        ends = np.cumsum(lens)
        T = int(ends[-1])
        cu_seqlens = self._take("cu_seqlens", np.int32, S + 1)
        cu_seqlens[0], cu_seqlens[1:] = 0, ends
        seq_of = np.repeat(np.arange(S), lens)
        positions = self._take("positions", np.int64, T)
        np.add((starts - (ends - lens))[seq_of], np.arange(T), out=positions)
        block_tables = self._fill_tables(entries)
        context_lens = self._take("context_lens", np.int32, S)
        context_lens[:] = starts + lens
        slot_mapping = self._take("slot_mapping", np.int64, T)
        self._map_slots(block_tables, seq_of, positions, slot_mapping)
        rows = [
            (entry.seq, row, sample)
            for entry, row in zip(entries, (ends - 1).tolist(), strict=True)
            for sample in range(entry.num_rows)
        ]
        sampling = [seq.state.request.sampling for seq, _, _ in rows]
        return Batch(
            token_ids=self._fill_tokens(entries, T),
            positions=positions,
            slot_mapping=slot_mapping,
            cu_seqlens=cu_seqlens,
            context_lens=context_lens,
            block_tables=block_tables,
            max_query_len=int(lens.max()),
            logits_rows=self._fill("logits_rows", np.int64, [row for _, row, _ in rows]),
            temperature=self._fill("temperature", np.float32, [s.temperature for s in sampling]),
            top_k=self._fill("top_k", np.int32, [s.top_k for s in sampling]),
            top_p=self._fill("top_p", np.float32, [s.top_p for s in sampling]),
            seeds=self._fill(
                "seeds", np.int64, [s.seed_of(fork) if fork else s.seed for s, _, fork in rows]
            ),
            sample_positions=self._fill(
                "sample_positions", np.int64, [len(seq.token_ids) for seq, _, _ in rows]
            ),
            penalties=[
                (index, s.repetition_penalty, rows[index][0].token_ids)
                for index, s in enumerate(sampling)
                if s.repetition_penalty != 1.0
            ],
            copies=span.copies,
        )

    def advance(self, batch: Batch, token_ids: Int64Array) -> None:
        """Turn a decode batch into that of the span's next step. `token_ids` [S]: just drawn.

        Block tables and sampling stay as they are: the span took its blocks ahead.
        """
        batch.token_ids[:] = token_ids
        batch.positions += 1
        batch.context_lens += 1
        batch.sample_positions += 1
        batch.copies = []
        seq_of = np.arange(len(batch.positions))
        self._map_slots(batch.block_tables, seq_of, batch.positions, batch.slot_mapping)

    def _map_slots(
        self, tables: Int32Array, seq_of: Int64Array, positions: Int64Array, out: Int64Array
    ) -> None:
        block, offset = np.divmod(positions, self._block_size)
        np.multiply(tables[seq_of, block], self._block_size, out=out)
        out += offset

    def _fill_tables(self, entries: list[ScheduledSequence]) -> Int32Array:
        lens = np.fromiter((len(e.block_ids) for e in entries), np.int64, len(entries))
        M = int(lens.max())
        flat: Int32Array = self._take("block_tables", np.int32, len(entries) * M)
        tables = flat.reshape(len(entries), M)
        tables.fill(-1)
        block_ids = b"".join(entry.block_ids for entry in entries)
        tables[np.arange(M) < lens[:, None]] = np.frombuffer(block_ids, np.int32)
        return tables

    def _fill_tokens(self, entries: list[ScheduledSequence], T: int) -> Int64Array:
        out: Int64Array = self._take("token_ids", np.int64, T)
        if len(entries) == T:
            out[:] = [entry.seq.token_ids[entry.start] for entry in entries]
            return out
        at = 0
        for entry in entries:
            num_tokens = entry.num_tokens
            tokens = entry.seq.token_ids
            out[at : at + num_tokens] = np.frombuffer(
                tokens, np.int32, num_tokens, entry.start * tokens.itemsize
            )
            at += num_tokens
        return out

    def _fill(self, name: str, dtype: type[np.generic], values: Iterable[float]) -> npt.NDArray:  # type: ignore[type-arg]
        values = list(values)
        out = self._take(name, dtype, len(values))
        out[:] = values
        return out

    def _take(self, name: str, dtype: type[np.generic], size: int) -> npt.NDArray:  # type: ignore[type-arg]
        """A buffer's first `size` elements; it grows when a larger batch comes."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(max(size, 256), dtype)
        return buffer[:size]
