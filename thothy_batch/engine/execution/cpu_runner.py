"""CPU model runner: turns a batch into tensors, runs the decoder and samples tokens."""

import numpy as np
import torch

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.execution.attention_metadata import host_metadata
from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_batch.engine.execution.sampler import Sampler
from thothy_batch.model import Decoder, ForwardInputs, GroupInputs, KVPool


class CPURunner:
    """A decoder, its KV pool and a sampler."""

    def __init__(self, decoder: Decoder, kv: KVPool, sampler: Sampler, layout: KVLayout) -> None:
        self._decoder = decoder
        self._kv = kv
        self._sampler = sampler
        self._layout = layout

    @torch.inference_mode()
    def run(self, batch: Batch) -> Int64Array:
        """Compute one step: copy blocks, write KV, draw int64 [R].

        Overwrites only blocks and slots that the batch lists, so a failed step can be repeated.
        """
        logits_RV = self.forward(batch)
        if not len(batch.logits_rows):
            return np.empty(0, np.int64)
        return self._sampler.sample(logits_RV, batch)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute float32 logits [R, V]."""
        for group in {group for group, _, _ in batch.copies}:
            pairs = [(source, target) for g, source, target in batch.copies if g == group]
            self._kv.copy_blocks(group, pairs)
        inputs = ForwardInputs(
            token_ids=torch.from_numpy(batch.token_ids),
            positions=torch.from_numpy(batch.rope_rows),
            groups=tuple(self._group(batch, g) for g in range(len(self._layout.groups))),
            logits_rows=torch.from_numpy(batch.logits_rows),
        )
        return self._decoder.forward(inputs, self._kv)

    def _group(self, batch: Batch, g: int) -> GroupInputs:
        """Return slot mapping and attention metadata of a layer group."""
        meta = host_metadata(batch, g, self._layout.groups[g].window)
        return GroupInputs(torch.from_numpy(batch.slot_mappings[g]), meta)

    def warm_up(self) -> None:
        """Compute one greedy and one sampled token, so that all code is compiled.

        Writes into block 0, which must be free.
        """
        for temperature in (0.0, 1.0):
            self.run(_single_token(temperature, len(self._layout.groups)))


def _single_token(temperature: float, num_groups: int) -> Batch:
    zero = np.zeros(1, np.int64)
    return Batch(
        token_ids=zero,
        positions=zero,
        slot_mappings=[zero] * num_groups,
        cu_seqlens=np.array([0, 1], np.int32),
        context_lens=np.ones(1, np.int32),
        block_tables=[np.zeros((1, 1), np.int32)] * num_groups,
        shared=np.empty((0, 4), np.int32),
        max_query_len=1,
        logits_rows=zero,
        temperature=np.array([temperature], np.float32),
        top_k=np.zeros(1, np.int32),
        top_p=np.ones(1, np.float32),
        seeds=zero,
        sample_positions=np.ones(1, np.int64),
        penalties=[],
        copies=[],
        block_size=1,
    )
