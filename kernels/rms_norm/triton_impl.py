"""rms_norm and add_rms_norm on a CUDA device: a row is read once and stays in registers.

A program computes one wide row or several narrow ones (heads). Their number depends on N and the
dtype alone, so a row is summed in the same order in any batch.
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

# Elements of a program; narrower rows are grouped. 16 elements per thread are two loads of 16 bytes
# in bfloat16 and take up to 40 registers. A multiprocessor then has 1,536 threads and 48 kB in
# flight, more than twice what hides the latency of its share of the memory.
_ELEMENTS, _PER_WARP = 2048, 16 * 32
# Wider rows give each thread more elements: of programs of 1,024 threads only two would fit on a
# multiprocessor, and both would wait for their sums.
_MOST_WARPS = 16
_OP = "rms_norm"


@triton.jit(do_not_specialize=["num_rows"])
def norm_kernel(  # type: ignore[no-untyped-def]
    x, delta, weight, total, out, num_rows, group_rows, group_stride, row_stride, eps,
    N: tl.constexpr, OFFSET: tl.constexpr, ADDS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Normalise ROWS rows of x: group_rows rows are row_stride apart, groups group_stride apart.

    weight [N]; out [num_rows, N]. With ADDS, delta [num_rows, N] has the strides of x, and
    x + delta, rounded, is stored to total [num_rows, N] before it is normalised.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offs_n = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (offs_n < N)[None, :]
    starts = rows // group_rows * group_stride + rows % group_rows * row_stride
    source = starts[:, None] + offs_n[None, :]
    target = rows[:, None] * N + offs_n[None, :]
    wide = tl.load(x + source, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(weight + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)
    if ADDS:
        wide += tl.load(delta + source, mask=mask, other=0.0).to(tl.float32)
        rounded = wide.to(total.dtype.element_ty)
        tl.store(total + target, rounded, mask=mask)
        wide = rounded.to(tl.float32)
    mean = tl.sum(wide * wide, 1) * (1.0 / N)
    normed = wide * tl.rsqrt(mean + eps)[:, None]
    if OFFSET == 0.0:
        normed = normed.to(out.dtype.element_ty).to(tl.float32)
    result = normed * (scale + OFFSET)[None, :]
    tl.store(out + target, result.to(out.dtype.element_ty), mask=mask)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> torch.Tensor:
    check_device("rms_norm", x, weight)
    # Heads of a merged projection are read in place.
    if x.dim() not in (2, 3) or x.stride(-1) != 1:
        x = x.contiguous()
    x = _aligned(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight, None, out, eps, weight_offset)
    return out


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    check_device("add_rms_norm", x, delta, weight)
    x, delta = _aligned(x.contiguous()), _aligned(delta.contiguous())
    total, out = torch.empty_like(x), torch.empty_like(x)
    _launch(x, delta, weight, total, out, eps, weight_offset)
    return total, out


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """x at a 16-byte aligned address: other addresses compile to another order of sums."""
    return x.clone(memory_format=torch.contiguous_format) if x.data_ptr() % 16 else x


def _launch(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    total: torch.Tensor | None,
    out: torch.Tensor,
    eps: float,
    weight_offset: float,
) -> None:
    N = x.shape[-1]
    if x.numel() == 0:
        return
    num_rows = x.numel() // N
    if x.dim() == 3:
        places = (x.shape[1], x.stride(0), x.stride(1))
    else:
        places = (1, x.stride(0) if x.dim() == 2 else N, 0)
    settings = settings_of(_OP, _key(N, x.dtype), _default(N))
    norm_kernel[(triton.cdiv(num_rows, settings.rows),)](
        *(x, delta, _aligned(weight.contiguous()), total, out, num_rows, *places, eps),
        N=N,
        OFFSET=weight_offset,
        ADDS=delta is not None,
        ROWS=settings.rows,
        BLOCK=block_for(N),
        num_warps=settings.warps,
    )


def _key(N: int, dtype: torch.dtype) -> str:
    return f"N{N} {dtype}"


@cache
def _default(N: int) -> LaunchSettings:
    """Default rows per program and warps."""
    block = block_for(N)
    rows = max(1, _ELEMENTS // block)
    return LaunchSettings(rows=rows, warps=min(_MOST_WARPS, max(4, rows * block // _PER_WARP)))


def trial(N: int, dtype: torch.dtype, device: torch.device, num_rows: int = 2048) -> Trial:
    """Tuning trial of add_rms_norm, whose settings both operations use."""

    def prepare() -> Callable[[], Outputs]:
        x, delta = (normal((num_rows, N), dtype, device, seed) for seed in range(2))
        weight = normal((N,), dtype, device, seed=2)
        return lambda: add_rms_norm(x, delta, weight, 1e-6, 0.0)

    candidates = candidates_from(
        _default(N), {"warps": 2}, {"warps": 1 / 2}, {"rows": 2, "warps": 2}, {"rows": 2},
        {"rows": 1 / 2, "warps": 1 / 2},
    )  # fmt: skip
    return Trial(_OP, _key(N, dtype), tuple(candidates), prepare)


# Sizes and offsets of heads (Qwen3, Gemma 3) and hidden states (Qwen3 0.6B, Gemma 3 1B, Llama 8B).
_HEADS = ((128, 0.0), (256, 1.0))
_HIDDEN = ((1024, 0.0), (1152, 1.0), (4096, 0.0))


def variants() -> list[Variant]:
    """Norms of heads and hidden states of models in use, with and without the addition."""
    heads = [_variant(*size, dtype, False) for size in _HEADS for dtype in ("bf16", "fp32")]
    return heads + [
        _variant(*size, dtype, adds)
        for size in _HIDDEN
        for dtype in ("bf16", "fp32")
        for adds in (False, True)
    ]


def _variant(N: int, offset: float, dtype: str, adds: bool) -> Variant:
    strides = ("group_stride", "row_stride")
    places = dict.fromkeys(("num_rows", "group_rows", *strides), "i32")
    settings = _default(N)
    constants: dict[str, object] = {"N": N, "OFFSET": offset, "ADDS": adds}
    constants |= {"ROWS": settings.rows, "BLOCK": block_for(N)}
    names = ["x", "weight", "out"]
    if adds:
        names += ["delta", "total"]
    else:
        constants |= {"delta": None, "total": None}
    if (N, offset) in _HIDDEN:
        del places["group_rows"]
        constants["group_rows"] = 1  # an argument that is 1 is compiled in
    return Variant(
        f"{'add_' if adds else ''}rms_norm_{N}_{dtype}",
        norm_kernel,
        dict.fromkeys(names, f"*{dtype}") | places | {"eps": "fp32"},
        constants,
        settings.warps,
        divisible=strides,
    )
