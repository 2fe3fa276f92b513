"""What the system is told of memory: what should lie in large pages, what is used no more."""

import ctypes
import mmap
from contextlib import suppress

import torch

_HUGE_PAGE = 2 << 20


def ask_for_huge_pages(tensor: torch.Tensor) -> None:
    """Tell the system that a tensor on the CPU would like to lie in large pages: memory that is
    read and written all over has fewer faults and misses there. Where the system has none, or does
    not let itself be told, nothing changes. Nothing of the tensor may have been used yet."""
    if tensor.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    begin = -(-tensor.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    end = (tensor.data_ptr() + tensor.nbytes) // _HUGE_PAGE * _HUGE_PAGE
    if begin >= end:
        return
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError):
        return
    madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)


def trim_heap() -> None:
    """Give the system back what was freed. glibc keeps it otherwise: 320 MB with Qwen3-0.6B, of
    plain tensors that were packed. Other C libraries have no such call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
