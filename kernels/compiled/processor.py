"""Which of this processor's instructions for bfloat16 the compiled kernels may use.

They are found as the compiler finds them, so code is never made for what is not there. The
environment variable THOTHY_CPU_ISA takes some away, to test and to compare: `amx` leaves all,
`avx512_bf16` no matrix tiles, `base` neither, in linears either. It is read once, when the kernels
are imported, as what they are compiled for depends on it.
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
    # The kernel of the system lets a process use the tiles once it has asked for them.
    return "amx" if torch.cpu._init_amx() else "avx512_bf16"


def _features() -> dict[str, bool]:
    """What the compiler makes code for: nothing beyond the ordinary where it was told to make it
    for another processor, or cannot tell."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:
        return {}
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


def _multiplies_bfloat16() -> bool:
    """Whether oneDNN, which looks at the processor itself, has fast products of bfloat16. Told by
    ONEDNN_MAX_CPU_ISA to leave AVX-512 out, it has none and refuses to pack such a weight."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    asked = os.environ.get("THOTHY_CPU_ISA")
    return level != "base" or (asked != "base" and torch.cpu._is_avx512_bf16_supported())


level = _level()
HAS_DOT = level != "base"  # vdpbf16ps: products of pairs of bfloat16, added to float32
HAS_TILES = level == "amx"  # tdpbf16ps: products of 16 x 32 by 32 x 16
MULTIPLIES_BFLOAT16 = _multiplies_bfloat16()
HAS_WIDE_REGISTERS = bool(_features().get("avx512f"))  # 32 of 512 bits
