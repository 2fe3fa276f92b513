"""Sampling compiled with Numba for CPUs."""

from thothy_kernels.sample.cpu_impl.launch import kernels, penalize_repetition, sample

__all__ = ["kernels", "penalize_repetition", "sample"]
