"""sample and penalize_repetition on the CPU: threads sample one row at a time."""

import numpy as np
import torch

from thothy_kernels.numba_simd import thread_pool
from thothy_kernels.numba_simd.arguments import pack
from thothy_kernels.numba_simd.functions import Compiled, kernel
from thothy_kernels.sample import SamplingTensors
from thothy_kernels.sample.cpu_impl.row_kernel import Arguments, sample_rows

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
    temperature, top_k, top_p = (
        value.contiguous() for value in (params.temperature, params.top_k, params.top_p)
    )
    seeds, positions = params.seeds.contiguous(), params.positions.contiguous()
    has_filters = bool(((params.top_k > 0) | (params.top_p < 1.0)).any())
    scratch = torch.empty((num_threads, 2, V) if has_filters else 0, dtype=torch.float64)
    arguments = Arguments(
        next_row=0,
        next_worker=0,
        R=R,
        V=V,
        stride=logits.stride(0),
        logits=logits.data_ptr(),
        temperature=temperature.data_ptr(),
        top_k=top_k.data_ptr(),
        top_p=top_p.data_ptr(),
        seeds=seeds.data_ptr(),
        positions=positions.data_ptr(),
        tokens=tokens.data_ptr(),
        scratch=scratch.data_ptr(),
    )
    thread_pool.launch(sample_rows, pack(arguments), num_threads)
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
    # All pairs are read before one is written, so a pair given twice is penalised once.
    values = np.empty(len(rows), np.float32)
    for i in range(len(rows)):
        value = logits[rows[i], tokens[i]]
        values[i] = value * penalty[i] if value < 0 else value / penalty[i]
    for i in range(len(rows)):
        logits[rows[i], tokens[i]] = values[i]


def kernels() -> tuple[Compiled, ...]:
    """The kernels that sampling needs, whatever the settings of a row."""
    return sample_rows, _penalize
