"""Paged attention in Triton for GPUs."""

from thothy_kernels.paged_attention.triton_impl.aot_variants import variants
from thothy_kernels.paged_attention.triton_impl.autotune import trials
from thothy_kernels.paged_attention.triton_impl.launch import paged_attention

__all__ = ["paged_attention", "trials", "variants"]
