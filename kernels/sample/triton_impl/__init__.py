"""Sampling in Triton for GPUs."""

from thothy_kernels.sample.triton_impl.launch import (
    penalize_repetition,
    penalize_seen,
    sample,
    trial,
    variants,
)

__all__ = ["penalize_repetition", "penalize_seen", "sample", "trial", "variants"]
