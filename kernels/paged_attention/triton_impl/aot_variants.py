"""Ahead-of-time variants of the paged_attention kernels, for models in use.

Variants use default launch settings only: tuning compiles other candidates on the device.
"""

import torch

from thothy_kernels.launch import Variant
from thothy_kernels.paged_attention.triton_impl.decode_kernel import decode_kernel
from thothy_kernels.paged_attention.triton_impl.merge_kernel import count_tiles_kernel, merge_kernel
from thothy_kernels.paged_attention.triton_impl.prefill_kernel import prefill_kernel
from thothy_kernels.paged_attention.triton_impl.shapes import MERGE_WARPS, AttentionShape

_NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
_INDICES = (
    *("cu_seqlens", "context_lens", "block_tables", "row_seqs", "skips", "chunks", "cu_tiles"),
    *("levels", "tiles"),
)
_COUNTS = (
    *("num_chunks", "num_rows", "num_programs", "table_stride", "window"),
    *("q_stride", "block_stride"),
)
# Multiples of 16 in every pool and model, which allows vector loads.
_STRIDES = ("q_stride", "block_stride")

# Llama-3.1-8B, Qwen3-0.6B, Phi (96), stories (80), Gemma 2 and 3 (soft cap, window).
_CASES = (
    (AttentionShape(32, 8, 128, 32, torch.bfloat16), (0, 64), False, False),
    (AttentionShape(16, 8, 128, 32, torch.bfloat16), (32,), False, False),
    (AttentionShape(32, 32, 96, 32, torch.bfloat16), (0,), False, False),
    (AttentionShape(32, 32, 80, 32, torch.bfloat16), (0,), False, False),
    (AttentionShape(32, 8, 64, 32, torch.bfloat16), (0,), False, False),
    (AttentionShape(16, 8, 256, 32, torch.bfloat16), (0, 64), False, True),
    (AttentionShape(16, 8, 256, 32, torch.bfloat16), (0,), True, True),
    (AttentionShape(16, 8, 128, 32, torch.float32), (0,), False, False),
)


def variants() -> list[Variant]:
    """One variant of count, prefill, decode and merge per case."""
    found = [_counting()]
    for shape, group_rows, has_window, has_softcap in _CASES:
        flags = {"HAS_WINDOW": has_window, "HAS_SOFTCAP": has_softcap}
        name = f"{_NAMES[shape.dtype]} H{shape.H} K{shape.K} D{shape.D}"
        name += " window" * has_window + " softcap" * has_softcap
        found.append(_prefill(name, shape, flags))
        for rows in group_rows:
            grouped = f"{name} groups of {rows}" if rows else name
            found += [_decode(grouped, shape, rows, flags), _merge(grouped, shape, rows)]
    return found


def _types(shape: AttentionShape | None = None) -> dict[str, str]:
    values = f"*{_NAMES[shape.dtype]}" if shape else "*bf16"
    types = dict.fromkeys(("q", "k_cache", "v_cache", "out"), values)
    types |= dict.fromkeys(("chunk_states", "row_states"), "*fp32")
    types |= dict.fromkeys(_INDICES, "*i32") | dict.fromkeys(_COUNTS, "i32")
    return types | {"scale": "fp32", "softcap": "fp32"}


def _decode(name: str, shape: AttentionShape, rows: int, flags: dict[str, bool]) -> Variant:
    settings = shape.decode_default
    constants = shape.decode_constants(rows, settings) | flags
    return Variant(
        f"decode {name}",
        decode_kernel,
        _types(shape),
        constants,
        settings.warps,
        divisible=_STRIDES,
    )


def _merge(name: str, shape: AttentionShape, rows: int) -> Variant:
    constants = shape.merge_constants(rows)
    return Variant(f"merge {name}", merge_kernel, _types(shape), constants, MERGE_WARPS)


def _prefill(name: str, shape: AttentionShape, flags: dict[str, bool]) -> Variant:
    settings = shape.prefill_default
    return Variant(
        f"prefill {name}",
        prefill_kernel,
        _types(shape),
        shape.prefill_constants(settings) | flags,
        settings.warps,
        settings.stages,
        _STRIDES,
    )


def _counting() -> Variant:
    constants = {"TILE": 64, "BLOCK": 1024, "HAS_WINDOW": False}
    return Variant("count tiles", count_tiles_kernel, _types(), constants)
