"""Paged attention through torch's flex_attention."""

from thothy_kernels.paged_attention.flex_impl.launch import paged_attention

__all__ = ["paged_attention"]
