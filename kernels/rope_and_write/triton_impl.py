"""rope_and_write_kv on a CUDA device: every element is read once and written once.

A program computes heads of one token and one kind (q, k or v), about 1,024 elements.
"""

from collections.abc import Callable
from functools import cache

import torch
import triton
import triton.language as tl

from thothy_kernels.launch import Variant, block_for, check_device
from thothy_kernels.tuning import (
    LaunchSettings,
    Outputs,
    Trial,
    candidates_from,
    normal,
    settings_of,
)

# 16 elements per thread, 8 of each half of a head: two loads of 16 bytes of bfloat16. A thread has
# 40 to 56 registers, so a multiprocessor has 18 to 25 such programs, 36 kB or more in flight: twice
# what hides the latency. A step of 256 tokens still has enough programs for all multiprocessors.
_ELEMENTS, _NUM_WARPS = 1024, 2
_OP = "rope_and_write_kv"


@triton.jit
def normed_halves(  # type: ignore[no-untyped-def]
    first, second, weight, offs_i, mask_i, eps,
    D: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Halves [HEADS, WIDTH] of heads after `rms_norm` with weight [D], rounded like it."""
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    first_scale = tl.load(weight + offs_i, mask=mask_i, other=0.0).to(tl.float32) + OFFSET
    second_scale = tl.load(weight + D // 2 + offs_i, mask=mask_i, other=0.0).to(tl.float32) + OFFSET
    mean = tl.sum(first * first + second * second, 1) * (1.0 / D)
    inverse = tl.rsqrt(mean + eps)[:, None]
    first, second = first * inverse, second * inverse
    if OFFSET == 0.0:
        first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    return (first * first_scale[None, :]).to(dtype), (second * second_scale[None, :]).to(dtype)


@triton.jit
def rotated_halves(  # type: ignore[no-untyped-def]
    first, second, weight, angles, offs_i, mask_i, is_valid, eps,
    D: tl.constexpr, OFFSET: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Halves [HEADS, WIDTH] of heads after norm and rotation by cos_sin at `angles` [D]; NaN unless
    is_valid."""
    dtype = first.dtype
    mask = offs_i < tl.where(is_valid, D // 2, 0)
    cos = tl.load(angles + offs_i, mask=mask, other=float("nan"))[None, :]
    sin = tl.load(angles + D // 2 + offs_i, mask=mask, other=float("nan"))[None, :]
    if HAS_NORM:
        first, second = normed_halves(first, second, weight, offs_i, mask_i, eps, D, OFFSET)
    a, b = first.to(tl.float32), second.to(tl.float32)
    return (a * cos - b * sin).to(dtype), (b * cos + a * sin).to(dtype)


@triton.jit(do_not_specialize=["num_positions", "num_slots"])
def rope_and_write_kernel(  # type: ignore[no-untyped-def]
    qkv, q_norm, k_norm, positions, cos_sin, k_cache, v_cache, slot_mapping, q_out,
    row_stride, block_stride, num_positions, num_slots, eps,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    OFFSET: tl.constexpr, HAS_NORM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute HEADS heads of one token of qkv [T, (H + 2K) * D]; q_out [T, H, D].

    Rows of qkv are row_stride apart, blocks [K, P, D] of both caches block_stride apart. A token
    whose position or slot does not exist is not stored, and its q is NaN.
    """
    Q_PARTS: tl.constexpr = (H + HEADS - 1) // HEADS
    KV_PARTS: tl.constexpr = (K + HEADS - 1) // HEADS
    token = (tl.program_id(0) // (Q_PARTS + 2 * KV_PARTS)).to(tl.int64)
    part = tl.program_id(0) % (Q_PARTS + 2 * KV_PARTS)
    position = tl.load(positions + token)
    slot = tl.load(slot_mapping + token)
    is_valid = (position >= 0) & (position < num_positions) & (slot >= -1) & (slot < num_slots)
    angles = cos_sin + position * D

    # Heads of the part within their kind, the number of heads of the kind, and its first head.
    is_query = part < Q_PARTS
    place = part - Q_PARTS
    is_key = place < KV_PARTS
    heads = tl.where(is_query, part, place % KV_PARTS) * HEADS + tl.arange(0, HEADS)
    num_heads = tl.where(is_query, H, K)
    start = tl.where(is_query, 0, tl.where(is_key, H, H + K))

    offs_i = tl.arange(0, WIDTH)
    mask_i = offs_i < D // 2
    mask = (heads < num_heads)[:, None] & mask_i[None, :]
    source = qkv + token * row_stride + (start + heads)[:, None] * D + offs_i[None, :]
    first = tl.load(source, mask=mask, other=0.0)
    second = tl.load(source + D // 2, mask=mask, other=0.0)
    if is_query:
        first, second = rotated_halves(
            first, second, q_norm, angles, offs_i, mask_i, is_valid, eps, D, OFFSET, HAS_NORM
        )
        target = q_out + token * (H * D) + heads[:, None] * D + offs_i[None, :]
        tl.store(target, first, mask=mask)
        tl.store(target + D // 2, second, mask=mask)
    else:
        cell = slot // P * block_stride + slot % P * D
        cells = cell + heads[:, None] * (P * D) + offs_i[None, :]
        is_stored = is_valid & (slot >= 0)
        mask = (heads < tl.where(is_stored, K, 0))[:, None] & mask_i[None, :]
        if is_key:
            first, second = rotated_halves(
                first, second, k_norm, angles, offs_i, mask_i, is_stored, eps, D, OFFSET, HAS_NORM
            )
            tl.store(k_cache + cells, first, mask=mask)
            tl.store(k_cache + cells + D // 2, second, mask=mask)
        else:
            tl.store(v_cache + cells, first, mask=mask)
            tl.store(v_cache + cells + D // 2, second, mask=mask)


def rope_and_write_kv(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    num_heads: int,
    eps: float,
    weight_offset: float,
) -> torch.Tensor:
    check_device("rope_and_write_kv", qkv, positions, cos_sin, k_cache, v_cache, slot_mapping)
    B, K, P, D = k_cache.shape
    T = qkv.shape[0]
    out = qkv.new_empty((T, num_heads, D))
    if out.numel() == 0:
        return out
    if qkv.stride(1) != 1:
        qkv = qkv.contiguous()
    norms = [None if weight is None else weight.contiguous() for weight in (q_norm, k_norm)]
    numbers = (positions.contiguous(), cos_sin.contiguous())
    settings = settings_of(_OP, _key(num_heads, K, D, qkv.dtype), _default(D))
    num_parts = triton.cdiv(num_heads, settings.rows) + 2 * triton.cdiv(K, settings.rows)
    rope_and_write_kernel[(T * num_parts,)](
        *(qkv, *norms, *numbers, k_cache, v_cache, slot_mapping.contiguous(), out),
        *(qkv.stride(0), k_cache.stride(0), cos_sin.shape[0], B * P, eps),
        **{"H": num_heads, "K": K, "D": D, "P": P, "OFFSET": weight_offset},
        HAS_NORM=q_norm is not None,
        **_constants(D, settings),
        num_warps=settings.warps,
    )
    return out


def _key(H: int, K: int, D: int, dtype: torch.dtype) -> str:
    return f"H{H} K{K} D{D} {dtype}"


@cache
def _default(D: int) -> LaunchSettings:
    """Default settings; rows are the heads of a program."""
    return LaunchSettings(rows=max(1, _ELEMENTS // (2 * block_for(D // 2))), warps=_NUM_WARPS)


def _constants(D: int, settings: LaunchSettings) -> dict[str, int]:
    """HEADS of a program, and WIDTH of half a head padded to a power of two."""
    return {"HEADS": settings.rows, "WIDTH": block_for(D // 2)}


def trial(
    num_heads: int, caches: tuple[torch.Tensor, torch.Tensor], has_norm: bool, num_tokens: int
) -> Trial:
    """Tuning trial. Overwrites slots 0 .. num_tokens of caches, keys and values [B, K, P, D]."""
    keys = caches[0]
    _, K, P, D = keys.shape
    device, num_blocks = keys.device, triton.cdiv(num_tokens, P)

    def prepare() -> Callable[[], Outputs]:
        qkv = normal((num_tokens, (num_heads + 2 * K) * D), keys.dtype, device)
        norm = normal((D,), keys.dtype, device, seed=1) if has_norm else None
        cos_sin = normal((num_tokens, D), torch.float32, device, seed=2)
        slots = torch.arange(num_tokens, device=device)
        written = [blocks[:num_blocks].zero_() for blocks in caches]

        def launch() -> Outputs:
            q = rope_and_write_kv(
                qkv, norm, norm, slots, cos_sin, *caches, slots, num_heads, 1e-6, 0.0
            )
            return q, *written

        return launch

    candidates = candidates_from(
        _default(D), {"warps": 2}, {"warps": 1 / 2}, {"rows": 1 / 2, "warps": 1 / 2},
        {"rows": 1 / 2}, {"rows": 2, "warps": 2},
    )  # fmt: skip
    return Trial(_OP, _key(num_heads, K, D, keys.dtype), tuple(candidates), prepare)


def variants() -> list[Variant]:
    """Variants for Qwen3 0.6B, Llama 8B, Llama 1B and Gemma 3 1B, with blocks of 32 tokens."""
    models = {
        "qwen3": (16, 8, 128, 0.0, True),
        "llama_8b": (32, 8, 128, 0.0, False),
        "llama_1b": (32, 8, 64, 0.0, False),
        "gemma3": (4, 1, 256, 1.0, True),
    }
    return [
        _variant(f"{name}_{dtype}", dtype, *model)
        for name, model in models.items()
        for dtype in ("bf16", "fp32")
    ]


def _variant(
    name: str, dtype: str, H: int, K: int, D: int, offset: float, has_norm: bool
) -> Variant:
    norms = dict.fromkeys(("q_norm", "k_norm"), f"*{dtype}")
    sizes = dict.fromkeys(("row_stride", "block_stride", "num_positions", "num_slots"), "i32")
    signature = {
        "qkv": f"*{dtype}",
        **(norms if has_norm else {}),
        "positions": "*i64",
        "cos_sin": "*fp32",
        "k_cache": f"*{dtype}",
        "v_cache": f"*{dtype}",
        "slot_mapping": "*i64",
        "q_out": f"*{dtype}",
        **sizes,
        "eps": "fp32",
    }
    constants = {"H": H, "K": K, "D": D, "P": 32, "OFFSET": offset, "HAS_NORM": has_norm}
    absent = {} if has_norm else dict.fromkeys(("q_norm", "k_norm"))
    return Variant(
        name,
        rope_and_write_kernel,
        signature,
        {**absent, **constants, **_constants(D, _default(D))},
        _default(D).warps,
        divisible=("row_stride", "block_stride"),
    )
