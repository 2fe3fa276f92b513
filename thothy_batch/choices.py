"""Words and bounds of settings, which manifest, kinds, command line and engine all go by.

Standard library only.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["none", "int8"]
Impl = Literal["auto", "reference", "cpu", "triton", "flex"]
Admission = Literal["auto", "optimistic"]
Speculation = Literal["auto", "off"]
Order = Literal["auto", "fifo", "length", "prefix"]

DEVICES: tuple[str, ...] = get_args(Device)
DTYPES: tuple[str, ...] = get_args(Dtype)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
IMPLS: tuple[str, ...] = get_args(Impl)[1:]  # those that `auto` chooses from
ADMISSIONS: tuple[str, ...] = get_args(Admission)
SPECULATIONS: tuple[str, ...] = get_args(Speculation)
ORDERS: tuple[str, ...] = get_args(Order)

MAX_SEED = 2**63 - 1  # fits the BIGINT column `seed`
MAX_COUNT = 2**31 - 1  # of tokens, blocks and rows: what the engine's tables hold
# Of a KV pool. A TiB where a GiB was meant: the bookkeeping alone would use up the machine.
MAX_BLOCKS = 2**24


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number's bounds; None: there is none on that side."""

    ge: float | None = None  # at least
    gt: float | None = None  # more than
    le: float | None = None  # at most
    whole: bool = False

    def as_field(self) -> dict[str, Any]:
        """Arguments of a field of a settings class."""
        sides = {"ge": self.ge, "gt": self.gt, "le": self.le}
        return {name: bound for name, bound in sides.items() if bound is not None}


SAMPLING_BOUNDS = {
    "temperature": Bounds(ge=0),
    "top_p": Bounds(gt=0, le=1),
    "top_k": Bounds(ge=0, le=MAX_COUNT, whole=True),
    "max_tokens": Bounds(ge=1, le=MAX_COUNT, whole=True),
    "repetition_penalty": Bounds(gt=0),
    "seed": Bounds(ge=0, le=MAX_SEED, whole=True),
}
