"""Helpers of all Triton implementations: device checks, block sizes, ahead-of-time variants.

Without a device the kernels run in Triton's interpreter (TRITON_INTERPRET=1, set before the first
kernel is imported), which computes on CPU tensors: exactly, except bfloat16 products, and slowly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import triton
from triton import knobs

# exp(x) = exp2(x * LOG2E): the device has an instruction for exp2 only.
LOG2E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Variant:
    """One specialisation of a kernel, to compile it without a device.

    `signature` maps each argument that is not a constant to its Triton type ("*bf16", "*i32",
    "i64", "fp32"), in the order of the kernel's parameters. `constants` has the others.
    """

    name: str
    kernel: Callable[..., object]
    signature: Mapping[str, str]
    constants: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    divisible: tuple[str, ...] = ()  # integers that are multiples of 16, as most strides are


def is_interpreted() -> bool:
    """True if kernels run in Triton's interpreter."""
    return bool(knobs.runtime.interpret)


def check_device(op: str, *tensors: torch.Tensor) -> None:
    """ValueError unless kernels can run on these tensors: on a CUDA device, or interpreted."""
    for tensor in tensors:
        if tensor.device.type != "cuda" and not is_interpreted():
            raise ValueError(
                f"{op}: implementation triton computes on a CUDA device, and a tensor is on "
                f"{tensor.device} (TRITON_INTERPRET=1 runs it there, slowly, for tests)"
            )


def block_for(size: int) -> int:
    """The least power of two >= `size`, as sizes of Triton blocks must be."""
    return int(triton.next_power_of_2(max(size, 1)))
