"""Paged attention compiled with Numba for CPUs."""

from thothy_kernels.paged_attention.cpu_impl.launch import paged_attention

__all__ = ["paged_attention"]
