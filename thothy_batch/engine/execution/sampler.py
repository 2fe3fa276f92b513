"""Sampler: draws the next token of each row. R rows, V vocab."""

import numpy as np
import torch

from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_kernels.sample import SamplingTensors, penalize_repetition, sample


class Sampler:
    """Applies the repetition penalty, then draws by the row's seed and position alone."""

    def __init__(self, impl: str) -> None:
        self._impl = impl

    def sample(self, logits_RV: torch.Tensor, batch: Batch) -> Int64Array:
        """Draw token ids int64 [R] from float32 logits, which may be modified."""
        if batch.penalties:
            self._penalize(logits_RV, batch)
        params = SamplingTensors(
            temperature=torch.from_numpy(batch.temperature),
            top_k=torch.from_numpy(batch.top_k),
            top_p=torch.from_numpy(batch.top_p),
            seeds=torch.from_numpy(batch.seeds),
            positions=torch.from_numpy(batch.sample_positions),
        )
        drawn: Int64Array = sample(logits_RV, params, impl=self._impl).numpy()
        return drawn

    def _penalize(self, logits_RV: torch.Tensor, batch: Batch) -> None:
        """Penalize prompt and output tokens alike, as transformers does."""
        tokens = [np.unique(ids) for _, _, ids in batch.penalties]
        lens = [len(ids) for ids in tokens]
        rows = np.repeat(np.array([row for row, _, _ in batch.penalties], np.int64), lens)
        penalty = np.repeat(np.array([p for _, p, _ in batch.penalties], np.float32), lens)
        penalize_repetition(
            logits_RV,
            torch.from_numpy(rows),
            torch.from_numpy(np.concatenate(tokens).astype(np.int64)),
            torch.from_numpy(penalty),
            impl=self._impl,
        )
