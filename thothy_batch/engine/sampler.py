"""From logits to tokens: penalties, then one draw per row, keyed by seed and position."""

from itertools import chain

import numpy as np
import torch
from thothy_kernels.sample import SamplingTensors, penalize_repetition, sample

from thothy_batch.engine.batch import draw_seeds
from thothy_batch.engine.scheduler import Row


class Sampler:
    """Draws for rows in their order; a forking row is drawn once for each of its samples."""

    def __init__(self, impl: str) -> None:
        self._impl = impl

    def draw(self, logits: torch.Tensor, rows: list[Row]) -> list[int]:
        """`rows` are those with draws, logits [len(rows), V]. Returns sum(num_draws) tokens."""
        if all(row.seq.state.request.sampling.temperature == 0 for row in rows):
            return self._draw_greedy(logits, rows)
        self._penalize(logits, rows)
        draws = [row.num_draws for row in rows]
        if any(n > 1 for n in draws):
            logits = logits.repeat_interleave(torch.tensor(draws), dim=0)
        return list(sample(logits, _tensors(rows, draws), impl=self._impl).tolist())

    def _draw_greedy(self, logits: torch.Tensor, rows: list[Row]) -> list[int]:
        self._penalize(logits, rows)
        tokens = sample(logits, _tensors(rows, [1] * len(rows)), impl=self._impl).tolist()
        return [
            token for token, row in zip(tokens, rows, strict=True) for _ in range(row.num_draws)
        ]

    def _penalize(self, logits: torch.Tensor, rows: list[Row]) -> None:
        """Over prompt and output, each distinct token once."""
        row_ids: list[int] = []
        token_ids: list[int] = []
        penalty: list[float] = []
        for index, row in enumerate(rows):
            value = row.seq.state.request.sampling.repetition_penalty
            if value != 1.0:
                distinct = set(row.seq.token_ids)
                token_ids += distinct
                row_ids += [index] * len(distinct)
                penalty += [value] * len(distinct)
        if row_ids:
            penalize_repetition(
                logits,
                torch.tensor(row_ids),
                torch.tensor(token_ids),
                torch.tensor(penalty, dtype=torch.float32),
                impl=self._impl,
            )


def _tensors(rows: list[Row], draws: list[int]) -> SamplingTensors:
    sampling = [row.seq.state.request.sampling for row in rows]
    seeds = chain.from_iterable(draw_seeds(row)[:n] for row, n in zip(rows, draws, strict=True))

    def column(values: list[float], dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype), draws))

    return SamplingTensors(
        column([s.temperature for s in sampling], np.float32),
        column([s.top_k for s in sampling], np.int32),
        column([s.top_p for s in sampling], np.float32),
        torch.tensor(list(seeds), dtype=torch.int64),
        column([len(row.seq.token_ids) for row in rows], np.int64),
    )
