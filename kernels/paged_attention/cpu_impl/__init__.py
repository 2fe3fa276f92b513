"""Paged attention compiled with Numba for CPUs."""

from thothy_kernels.paged_attention.cpu_impl.launch import kernels, paged_attention

__all__ = ["kernels", "paged_attention"]
