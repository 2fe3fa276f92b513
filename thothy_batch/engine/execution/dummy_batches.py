"""Dummy batches: made-up steps over unused blocks, to warm up and measure a runner."""

import numpy as np

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.cost.cost_model import StepWork
from thothy_batch.engine.execution.batch import Batch, Int32Array
from thothy_batch.engine.kv_cache.page_pool import PagePool

# Every vocabulary has at least this many tokens.
_NUM_IDS = 16


def step_work(batch: Batch) -> StepWork:
    """Return the work of a batch. A chunk of one token counts as a decoding sequence."""
    query_lens = np.diff(batch.cu_seqlens).astype(np.int64)
    context_lens = batch.context_lens.astype(np.int64)
    decodes = query_lens == 1
    new, seen = query_lens[~decodes], (context_lens - query_lens)[~decodes]
    first, end, start, stop = batch.shared.astype(np.int64).T
    # The first sequence of a group reads the shared prefix, the others only multiply by it.
    shared_pairs = int(((end - first - 1) * (stop - start)).sum())
    return StepWork(
        num_tokens=len(batch.token_ids),
        num_sampled=len(batch.logits_rows),
        decode_context=int(context_lens[decodes].sum()) - shared_pairs,
        num_decode=int(decodes.sum()),
        prefill_pairs=int((new * seen + new * (new + 1) // 2).sum()),
        shared_pairs=shared_pairs,
    )


class DummyBatches:
    """Makes batches over one range of blocks per layer group, of at most `max_tokens` tokens.

    Nothing else may use the pool meanwhile; its content is meaningless afterwards.
    """

    def __init__(self, config: EngineConfig, max_tokens: int) -> None:
        layout = config.layout
        per_page = layout.blocks_per_page
        pool = PagePool(config.num_pages, per_page)
        num_blocks = min(layout.blocks_for(max_tokens), config.num_pages * max(per_page))
        while not pool.fits([num_blocks] * len(per_page)):
            num_blocks -= 1
        self._tables = [
            np.array(pool.allocate(g, num_blocks), np.int32) for g in range(len(per_page))
        ]
        self.block_size = config.block_size
        self._num_blocks = num_blocks
        self.max_rows = config.max_seqs
        self.max_context = min(num_blocks * config.block_size, config.max_model_len)
        self.max_chunk = min(self.max_context, config.max_step_tokens)
        self._max_step_tokens = config.max_step_tokens

    @property
    def num_tokens(self) -> int:
        """Capacity of the blocks in tokens."""
        return self._num_blocks * self.block_size

    def fill(self) -> list[Batch]:
        """Return batches that write every block once, so that reading them reads real memory."""
        first = self.chunk(0, min(self.max_chunk, 8 * self.block_size))
        done = -(-len(first.token_ids) // self.block_size)
        copies = self.chunk(0, 1)
        copies.copies = [
            (g, int(table[index % done]), int(table[index]))
            for g, table in enumerate(self._tables)
            for index in range(done, self._num_blocks)
        ]
        return [first, copies]

    def chunk(self, start: int, num_tokens: int) -> Batch:
        """Return a prefill chunk after `start` computed tokens; nothing is sampled."""
        num_blocks = -(-(start + num_tokens) // self.block_size)
        return self._batch([start], num_tokens, np.arange(num_blocks)[None], sampled=False)

    def decode(self, num_rows: int, context: int) -> Batch:
        """Return decoding sequences, each with its own blocks as far as there are enough."""
        each = -(-context // self.block_size)
        lanes = np.arange(num_rows) % (self._num_blocks // each)
        blocks = lanes[:, None] * each + np.arange(each)
        return self._batch([context - 1] * num_rows, 1, blocks, sampled=True)

    def full_step(self) -> Batch:
        """Return the largest step: prompts that all use the same blocks, one sample each."""
        length = self.max_chunk
        num_prompts = max(1, min(self._max_step_tokens // length, self.max_rows))
        blocks = np.arange(-(-length // self.block_size))
        return self._batch(
            [0] * num_prompts, length, np.tile(blocks, (num_prompts, 1)), sampled=True
        )

    def grouped_decode(self, num_rows: int, shared_blocks: int) -> Batch:
        """Return decoding sequences with a shared prefix of whole blocks and one own block each."""
        blocks = np.tile(np.arange(shared_blocks + 1), (num_rows, 1))
        own = self._num_blocks - shared_blocks
        blocks[:, -1] = shared_blocks + np.arange(num_rows) % own
        shared_len = shared_blocks * self.block_size
        batch = self._batch([shared_len] * num_rows, 1, blocks, sampled=True)
        batch.shared = np.array([[0, num_rows, 0, shared_len]], np.int32)
        return batch

    def _batch(
        self, starts: list[int], num_tokens: int, blocks: np.ndarray, *, sampled: bool
    ) -> Batch:
        """Return a step of `num_tokens` tokens per sequence from its start on.

        `blocks` [S, M]: indices into the range of blocks.
        """
        num_seqs = len(starts)
        positions = (np.array(starts)[:, None] + np.arange(num_tokens)).ravel()
        seq_of = np.repeat(np.arange(num_seqs), num_tokens)
        tables: list[Int32Array] = [table[blocks] for table in self._tables]
        block, offset = np.divmod(positions, self.block_size)
        cu_seqlens = np.arange(num_seqs + 1, dtype=np.int32) * np.int32(num_tokens)
        rows = cu_seqlens[1:].astype(np.int64) - 1 if sampled else np.empty(0, np.int64)
        return Batch(
            token_ids=positions % _NUM_IDS,
            positions=positions,
            slot_mappings=[
                table[seq_of, block].astype(np.int64) * self.block_size + offset for table in tables
            ],
            cu_seqlens=cu_seqlens,
            context_lens=np.array(starts, np.int32) + np.int32(num_tokens),
            block_tables=tables,
            shared=np.empty((0, 4), np.int32),
            max_query_len=num_tokens,
            logits_rows=rows,
            temperature=np.zeros(len(rows), np.float32),
            top_k=np.zeros(len(rows), np.int32),
            top_p=np.ones(len(rows), np.float32),
            seeds=np.zeros(len(rows), np.int64),
            sample_positions=positions[rows] + 1,
            penalties=[],
            copies=[],
            block_size=self.block_size,
            num_decoding=len(rows) if num_tokens == 1 else 0,
            slots=np.arange(len(rows)),
            penalty=np.ones(len(rows), np.float32),
            limits=positions[rows],
        )
