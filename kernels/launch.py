"""What the Triton implementations share: where they may run, and how they are compiled ahead.

Without a device the kernels run in Triton's interpreter (TRITON_INTERPRET=1, set before the first
kernel is imported), which computes on CPU tensors: exact, but for bfloat16 products, and slow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import triton
from triton import knobs

# exp(x) = exp2(x * LOG2E): the device has an instruction for the right side alone.
LOG2E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a kernel is launched, for compiling it where no device is.

    `signature` has the type of each argument that is no constant, in the order of the kernel's
    parameters, in Triton's words: "*bf16", "*i32", "i64", "fp32". `constants` has the rest.
    """

    name: str
    kernel: Callable[..., object]
    signature: Mapping[str, str]
    constants: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    divisible: tuple[str, ...] = ()  # numbers that are multiples of 16, as strides mostly are


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return bool(knobs.runtime.interpret)


def check_device(op: str, *tensors: torch.Tensor) -> None:
    """ValueError unless the kernels can compute on these tensors."""
    for tensor in tensors:
        if tensor.device.type != "cuda" and not is_interpreted():
            raise ValueError(
                f"{op}: implementation triton computes on a CUDA device, and a tensor lies on "
                f"{tensor.device} (TRITON_INTERPRET=1 runs it there, slowly, for tests)"
            )


def block_for(size: int) -> int:
    """The least power of two that holds `size` elements: sizes of Triton's blocks are such."""
    return int(triton.next_power_of_2(max(size, 1)))
