"""Turns spans into forward passes of a decoder over the KV pool."""

import torch

from thothy_batch.engine.batch import Batch
from thothy_batch.engine.sampler import Sampler
from thothy_batch.engine.scheduler import Span
from thothy_batch.model.decoder import Decoder
from thothy_batch.model.kv_pool import KVPool


class ModelRunner:
    """Holds the decoder, the KV pool and the sampler; the scheduler never sees a tensor."""

    def __init__(self, decoder: Decoder, kv: KVPool, sampler: Sampler) -> None:
        self._decoder = decoder
        self._kv = kv
        self._sampler = sampler
        self._span: Span | None = None
        self._batch: Batch | None = None
        self.last_logits: torch.Tensor | None = None  # of the newest step, for tests

    def begin(self, span: Span) -> None:
        if span.copies:
            self._kv.copy_blocks(span.copies)
        self._span = span
        self._batch = Batch.of(span, self._kv.block_size)

    def step(self) -> list[int]:
        assert self._span is not None, "begin comes first"
        assert self._batch is not None, "begin comes first"
        rows = [row for row in self._span.rows if row.num_draws]
        logits = self._decoder.forward(self._batch.inputs(), self._kv)
        self.last_logits = logits
        return self._sampler.draw(logits, rows) if rows else []

    def advance(self, token_ids: list[int]) -> None:
        assert self._batch is not None, "begin comes first"
        self._batch.advance(token_ids)
