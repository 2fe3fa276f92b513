"""What the system is told of memory: which should lie in large pages, which is used no more."""

import ctypes
import mmap
from contextlib import suppress

import torch

_HUGE_PAGE = 2 << 20
# Of malloc.h in glibc, whose values are ints.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_SIZE, _OLD_LIMIT, _KEPT_IN_ALL = 1 << 30, 32 << 20, (1 << 31) - 1  # bytes


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


def keep_freed_memory() -> None:
    """From now on what is freed stays with this process, for the next tensor of about its size.

    The logits of a step are tens of megabytes. glibc takes so much anew from the system each time,
    page by page: of a verifying step of 128 rows and Qwen3-0.6B's vocabulary that was 40 ms of 76
    in the head alone. Other C libraries have no such call.
    """
    with suppress(AttributeError, OSError):
        c = ctypes.CDLL(None)
        # Older versions take no more than the smaller size.
        if c.mallopt(_M_MMAP_THRESHOLD, _KEPT_SIZE) or c.mallopt(_M_MMAP_THRESHOLD, _OLD_LIMIT):
            c.mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_ALL)
