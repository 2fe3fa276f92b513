"""Instruction sets for bfloat16 that the Numba kernels may use on this processor.

Detection uses the compiler's own feature list, so no kernel contains an instruction that is
missing. The environment variable THOTHY_CPU_ISA lowers the level for tests and comparisons: `amx`
allows everything, `avx512_bf16` excludes AMX, `base` excludes both, in linears too. It is read once
at import, because the kernels are compiled for the level.
"""

import os
import platform

import llvmlite.binding as llvm
import torch
from numba.core import config

_LEVELS = ("base", "avx512_bf16", "amx")


def _level() -> str:
    asked = os.environ.get("THOTHY_CPU_ISA", "amx")
    if asked not in _LEVELS:
        raise ValueError(f"THOTHY_CPU_ISA is {asked!r}: use one of {', '.join(_LEVELS)}")
    features = _features()
    if not (features.get("avx512bf16") and features.get("avx512bw")) or asked == "base":
        return "base"
    if not features.get("amx-bf16") or asked == "avx512_bf16":
        return "avx512_bf16"
    # The operating system lets a process use the tiles after it has requested them.
    return "amx" if torch.cpu._init_amx() else "avx512_bf16"


def _features() -> dict[str, bool]:
    """Features that the compiler generates code for; none if it targets another processor, or
    cannot detect this one."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:
        return {}
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


def _multiplies_bfloat16() -> bool:
    """True if oneDNN, which detects the processor itself, has fast products of bfloat16.

    ONEDNN_MAX_CPU_ISA can exclude AVX-512; oneDNN then has none and refuses to pack such a weight.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    asked = os.environ.get("THOTHY_CPU_ISA")
    return level != "base" or (asked != "base" and torch.cpu._is_avx512_bf16_supported())


level = _level()
HAS_BF16_DOT = level != "base"  # vdpbf16ps: products of bfloat16 pairs, summed in float32
HAS_AMX = level == "amx"  # tdpbf16ps: products of 16 x 32 by 32 x 16 tiles
MULTIPLIES_BFLOAT16 = _multiplies_bfloat16()
HAS_WIDE_REGISTERS = bool(_features().get("avx512f"))  # 32 of 512 bits
