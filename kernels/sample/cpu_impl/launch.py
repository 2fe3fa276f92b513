"""sample and penalize_repetition, compiled, a row per turn of a thread."""

import numpy as np
import torch

from thothy_kernels.numba_simd import thread_pool
from thothy_kernels.numba_simd.functions import kernel
from thothy_kernels.sample import SamplingTensors
from thothy_kernels.sample.cpu_impl.row_kernel import sample_rows

# Logits that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17


def sample(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    R, V = logits.shape
    tokens = torch.empty(R, dtype=torch.int64)
    if R == 0:
        return tokens
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    num_threads = thread_pool.num_threads_for(R * V, _LEAST_PER_THREAD)
    values = [
        value.contiguous()
        for value in (
            params.temperature,
            params.top_k,
            params.top_p,
            params.seeds,
            params.positions,
        )
    ]
    # Ids and weights of the tokens that top-k and top-p consider, per thread.
    chooses = bool(((params.top_k > 0) | (params.top_p < 1.0)).any())
    scratch = torch.empty((num_threads, 2, V) if chooses else 0, dtype=torch.float64)
    args = np.array(
        (
            *(0, 0, R, V, logits.stride(0), logits.data_ptr()),
            *(value.data_ptr() for value in values),
            *(tokens.data_ptr(), scratch.data_ptr()),
        ),
        dtype=np.int64,
    )
    thread_pool.launch(sample_rows, args, num_threads)
    if int(tokens.min()) < 0:
        row = int(tokens.argmin())
        raise ValueError(f"sample: row {row} of the logits holds NaN, or its maximum is infinite")
    return tokens


def penalize_repetition(
    logits: torch.Tensor, row_ids: torch.Tensor, token_ids: torch.Tensor, penalty: torch.Tensor
) -> None:
    R, V = logits.shape
    rows, tokens = row_ids.contiguous().numpy(), token_ids.contiguous().numpy()
    if rows.min() < 0 or rows.max() >= R:
        raise ValueError(f"penalize_repetition: row_ids must lie in 0 .. {R - 1}")
    if tokens.min() < 0 or tokens.max() >= V:
        raise ValueError(f"penalize_repetition: token_ids must lie in 0 .. {V - 1}")
    if logits.stride(1) != 1:
        raise ValueError("penalize_repetition: rows of logits must be contiguous")
    _penalize(logits.numpy(), rows, tokens, penalty.contiguous().numpy())


@kernel("void(float32[:, :], int64[::1], int64[::1], float32[::1])")
def _penalize(logits, rows, tokens, penalty):  # type: ignore[no-untyped-def]
    # All are read before one is written: a pair that is named twice is penalised once.
    values = np.empty(len(rows), np.float32)
    for i in range(len(rows)):
        value = logits[rows[i], tokens[i]]
        values[i] = value * penalty[i] if value < 0 else value / penalty[i]
    for i in range(len(rows)):
        logits[rows[i], tokens[i]] = values[i]
