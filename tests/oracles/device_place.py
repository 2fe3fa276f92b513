"""The place where device tests compute: a GPU, or with THOTHY_GPU_DRY_RUN=1 the interpreter.

A dry run shows that the tests run; most of what they are about is on a device alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from thothy_kernels.paged_attention import AttentionMetadata

_Size = TypeVar("_Size")

IS_DRY_RUN = os.environ.get("THOTHY_GPU_DRY_RUN") == "1"
DEVICE = "cpu" if IS_DRY_RUN else "cuda"
CAN_RUN = IS_DRY_RUN or torch.cuda.is_available()
# The interpreter cannot multiply bfloat16, and truncates to it: float16 stands in for it there.
HALF = torch.float16 if IS_DRY_RUN else torch.bfloat16
DTYPES = (torch.float32, HALF)


def sizes(of_device: list[_Size], of_dry_run: list[_Size]) -> list[_Size]:
    return of_dry_run if IS_DRY_RUN else of_device


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within it whatever of torch's operations makes the host wait for the device raises: reading
    a value, copies between the two that are not asynchronous. To wait for an event does not, nor
    for the whole device; and on the CPU nothing does.
    """
    if DEVICE == "cpu":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def on_device(meta: AttentionMetadata, device: str = DEVICE) -> AttentionMetadata:
    """As the engine hands it over: on the device, with the host's values beside."""
    return AttentionMetadata(
        meta.cu_seqlens.to(device),
        meta.context_lens.to(device),
        meta.block_tables.to(device),
        meta.max_query_len,
        meta.window,
        None if meta.shared is None else meta.shared.to(device),
        host=meta,
    )


def pool_on_device(cache: torch.Tensor) -> torch.Tensor:
    """A cache [B, K, P, D] with the distance between its blocks; what lies between is NaN."""
    B, stride = cache.shape[0], cache.stride(0) // cache[0].numel()
    pool = cache.new_full((B, stride, *cache.shape[1:]), float("nan"), device=DEVICE)
    view = pool[:, stride // 2]
    view.copy_(cache)
    return view
