"""gated on a CUDA device: one pass."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from thothy_kernels.gated_activation import GELU_CUBIC, GELU_LINEAR
from thothy_kernels.launch import LOG2E, Variant, check_device
from thothy_kernels.tuning import (
    LaunchSettings,
    Outputs,
    Trial,
    candidates_from,
    normal,
    settings_of,
)

# 8 elements per thread are one load of 16 bytes of bfloat16 from each half. The 2,048 threads of a
# multiprocessor then have 64 kB in flight, more than three times what hides the latency.
# Feed-forward sizes are multiples of 1,024, or nearly, so few threads are masked.
_DEFAULT = LaunchSettings(tile=1024, warps=4)
_OP = "gated_activation"

_LOG2E = tl.constexpr(LOG2E)
# ln 2 in two parts. The first has 9 bits: its products with whole numbers up to 2^15 are exact.
_LN2_HIGH, _LN2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.12194440054690583e-4)
_LINEAR, _CUBIC = tl.constexpr(GELU_LINEAR), tl.constexpr(GELU_CUBIC)
# Beyond these gates the logistic function is 0 or 1 in float32, whose exp(-104) is 0.
_SILU_BOUND, _GELU_BOUND = tl.constexpr(104.0), tl.constexpr(16.0)


@triton.jit
def exp_of(x):  # type: ignore[no-untyped-def]
    """exp(x) of float32 within about two roundings, for x in -1,000 .. 80.

    exp2(x * LOG2E) alone would be wrong by up to |x| / 2 roundings, from rounding the product.
    """
    whole = tl.floor(x * _LOG2E + 0.5)
    rest = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    return tl.exp2(whole) * tl.exp2(rest * _LOG2E)


@triton.jit
def activated(gate, IS_GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """act(gate) in float32, by exp(-|s|), which never overflows; NaN stays NaN."""
    if IS_GELU:
        near = tl.minimum(tl.maximum(gate, -_GELU_BOUND), _GELU_BOUND)
        slope = near * (_LINEAR + _CUBIC * (near * near))
    else:
        slope = tl.minimum(tl.maximum(gate, -_SILU_BOUND), _SILU_BOUND)
    below = exp_of(-tl.abs(slope))
    return tl.where(slope >= 0.0, gate, gate * below) / (1.0 + below)


@triton.jit
def gated_kernel(  # type: ignore[no-untyped-def]
    gate_up, out, row_stride,
    F: tl.constexpr, IS_GELU: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute one of the CHUNKS of a row of gate_up [T, 2F] to out [T, F]."""
    row = (tl.program_id(0) // CHUNKS).to(tl.int64)
    offs_f = tl.program_id(0) % CHUNKS * BLOCK + tl.arange(0, BLOCK)
    mask = offs_f < F
    source = gate_up + row * row_stride + offs_f
    gate = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(source + F, mask=mask, other=0.0).to(tl.float32)
    result = activated(gate, IS_GELU) * up
    tl.store(out + row * F + offs_f, result.to(out.dtype.element_ty), mask=mask)


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    check_device("gated", gate_up)
    if gate_up.stride(1) != 1:
        gate_up = gate_up.contiguous()
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((T, F))
    if out.numel() == 0:
        return out
    settings = settings_of(_OP, _key(F, gate_up.dtype), _DEFAULT)
    num_chunks = triton.cdiv(F, settings.tile)
    gated_kernel[(T * num_chunks,)](
        *(gate_up, out, gate_up.stride(0)),
        F=F,
        IS_GELU=activation == "gelu_tanh",
        CHUNKS=num_chunks,
        BLOCK=settings.tile,
        num_warps=settings.warps,
    )
    return out


def _key(F: int, dtype: torch.dtype) -> str:
    return f"F{F} {dtype}"


def trial(
    F: int, activation: str, dtype: torch.dtype, device: torch.device, num_rows: int = 1024
) -> Trial:
    """Tuning trial of gate_up [num_rows, 2F]."""

    def prepare() -> Callable[[], Outputs]:
        gate_up = normal((num_rows, 2 * F), dtype, device)
        return lambda: (gated(gate_up, activation),)

    candidates = candidates_from(
        _DEFAULT, {"warps": 2}, {"tile": 1 / 2, "warps": 1 / 2}, {"tile": 1 / 2},
        {"tile": 2, "warps": 2}, {"tile": 2},
    )  # fmt: skip
    return Trial(_OP, _key(F, dtype), tuple(candidates), prepare)


def variants() -> list[Variant]:
    """Variants for feed-forward sizes of Qwen3 0.6B, Gemma 3 1B and Llama 8B, per activation."""
    return [
        Variant(
            f"{activation}_{F}_{dtype}",
            gated_kernel,
            {"gate_up": f"*{dtype}", "out": f"*{dtype}", "row_stride": "i32"},
            {
                "F": F,
                "IS_GELU": activation == "gelu_tanh",
                "CHUNKS": triton.cdiv(F, _DEFAULT.tile),
                "BLOCK": _DEFAULT.tile,
            },
            _DEFAULT.warps,
            divisible=("row_stride",),
        )
        for F in (3072, 6912, 14336)
        for dtype in ("bf16", "fp32")
        for activation in ("silu", "gelu_tanh")
    ]
