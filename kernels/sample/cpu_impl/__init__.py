"""Sampling compiled with Numba for CPUs."""

from thothy_kernels.sample.cpu_impl.launch import penalize_repetition, sample

__all__ = ["penalize_repetition", "sample"]
