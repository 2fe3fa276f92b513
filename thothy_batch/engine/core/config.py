"""The engine's settings, resolved once from the manifest and the machine, then frozen."""

import os
from dataclasses import dataclass, replace

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.hardware.gpu import LEAST_CAPABILITY, find_gpu
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, LayerGroup

IMPLS = ("reference", "cpu", "triton", "flex")
_FASTEST = {"cpu": "cpu", "cuda": "triton"}  # by device
# A TiB where a GiB was meant: the pool's bookkeeping alone would use up the machine.
_MAX_BLOCKS = 2**24


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What `auto` means on a device."""

    step_tokens: int
    max_seqs: int
    memory_share: float  # of free memory, for the KV pool
    bulk_tokens: int


_DEFAULTS = {
    # A step's cost on a CPU grows with its tokens from about eight on: larger steps save nothing,
    # they only make finished rows wait and need more memory for activations.
    "cpu": _Defaults(step_tokens=2048, max_seqs=256, memory_share=0.5, bulk_tokens=0),
    # A GPU's matrix products reach their rate at some thousands of rows, and a decode step reads
    # the weights once for all of its rows. Nobody else uses its memory.
    "cuda": _Defaults(step_tokens=8192, max_seqs=1024, memory_share=0.92, bulk_tokens=4096),
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Every setting that the scheduler and the runner go by. Lengths in tokens."""

    device: str
    impl: str
    dtype: str
    layout: KVLayout
    num_blocks: int  # the pool's memory, in blocks of all layers
    max_seqs: int
    max_step_tokens: int
    max_model_len: int
    admission: str  # reserve | optimistic
    prefix_sharing: bool
    threads: int = 1
    speculation: bool = False  # verify drafts of greedy rows where it pays
    bulk_tokens: int = 0  # prompt tokens that are worth a step beside rows that decode; 0: any

    @property
    def block_size(self) -> int:
        return self.layout.block_size

    @property
    def num_pages(self) -> int:
        """Large pages of the pool."""
        return self.layout.num_pages(self.num_blocks)

    @property
    def pool_tokens(self) -> int:
        """Tokens that the pool holds in all layers."""
        return self.num_blocks * self.block_size

    def as_json(self) -> dict[str, object]:
        """Every setting as plain values, as it is stored with a run."""
        settings = {name: getattr(self, name) for name in self.__slots__ if name != "layout"}
        groups = [
            {"num_layers": len(group.layers), "window": group.window}
            for group in self.layout.groups
        ]
        return {**settings, "block_size": self.block_size, "layer_groups": groups}


def resolve_device(device: str) -> str:
    """The device to compute on; `auto`: a GPU where one can be used. ModelError for one that is
    not there."""
    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise ModelError(f"engine.device {device!r} is not known", hint="one of auto, cpu, cuda")
    gpu = find_gpu()
    if gpu is not None and gpu.is_supported:
        return "cuda"
    if device == "auto":
        return "cpu"
    if gpu is not None:
        raise ModelError(
            f"engine.device cuda: {gpu.name} has compute capability {gpu.capability}, and "
            f"{LEAST_CAPABILITY} is the least that can be used",
            hint="set engine.device to cpu or auto",
        )
    raise ModelError(
        "engine.device cuda: no NVIDIA GPU can be used here (nvidia-smi names none, or torch is "
        "installed without CUDA)",
        hint="set engine.device to cpu or auto, or install a torch with CUDA",
    )


def resolve_impl(impl: str, device: str) -> str:
    """The implementation of the kernels; `auto` picks the fastest of the device."""
    if impl == "auto":
        return _FASTEST[device]
    if impl not in IMPLS:
        raise ModelError(
            f"engine.impl {impl!r} is not known", hint=f"use auto or one of {', '.join(IMPLS)}"
        )
    if impl == "cpu" and device != "cpu":
        raise ModelError(
            f"engine.impl cpu does not compute on engine.device {device}",
            hint="use engine.impl auto, or engine.device cpu",
        )
    # The interpreter is for tests: it takes seconds for a token.
    if impl == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ModelError(
            "engine.impl triton computes on an NVIDIA GPU, and the engine would compute on the CPU",
            hint="use engine.impl auto (TRITON_INTERPRET=1 interprets it, for tests)",
        )
    return impl


def resolve_spec(spec: EngineSpec) -> EngineSpec:
    """The specification with `auto` replaced for this machine in `device` and `impl`.

    Everything that starts an engine or describes a model resolves once; what follows reads the
    result. Raises ModelError for a device or an implementation that cannot be used.
    """
    device = resolve_device(spec.device)
    return replace(spec, device=device, impl=resolve_impl(spec.impl, device))


def ops_impl(impl: str, device: str) -> str:
    """The implementation of all operations but attention: `flex` is one of attention alone."""
    return _FASTEST[device] if impl == "flex" else impl


def resolve_config(
    spec: EngineSpec,
    *,
    dtype: str,
    max_model_len: int,
    bytes_per_token: int,
    free_bytes: int,
    layer_groups: tuple[LayerGroup, ...] = (LayerGroup((0,)),),
    threads: int = 1,
) -> EngineConfig:
    """Fill in what the manifest left to `auto`. `spec` is a result of `resolve_spec`.

    `bytes_per_token`: KV of one token in all layers; `free_bytes`: memory that could be taken now.
    """
    _check_counts(spec)
    device = spec.device
    layout = KVLayout(layer_groups, spec.block_size)
    max_step_tokens = spec.max_step_tokens or _DEFAULTS[device].step_tokens
    # Every running sequence decodes in every step: more of them than a step holds would only wait.
    max_seqs = min(spec.max_seqs or _DEFAULTS[device].max_seqs, max_step_tokens)
    return EngineConfig(
        device=device,
        impl=spec.impl,
        dtype=dtype,
        layout=layout,
        num_blocks=_num_blocks(
            spec, layout, max_seqs, bytes_per_token, _pool_bytes(spec, device, free_bytes)
        ),
        max_seqs=max_seqs,
        max_step_tokens=max_step_tokens,
        max_model_len=max_model_len,
        admission="optimistic" if spec.admission == "optimistic" else "reserve",
        prefix_sharing=spec.prefix_sharing,
        threads=threads,
        speculation=device == "cpu" and spec.speculation == "auto",
        bulk_tokens=min(_DEFAULTS[device].bulk_tokens, max_step_tokens),
    )


def step_tokens(spec: EngineSpec) -> int:
    """Most tokens that one step computes. `spec` is a result of `resolve_spec`."""
    return spec.max_step_tokens or _DEFAULTS[spec.device].step_tokens


def _check_counts(spec: EngineSpec) -> None:
    for name in ("block_size", "num_blocks", "max_seqs", "max_step_tokens"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ModelError(f"engine.{name} is {value}", hint="it must be at least 1")
    if spec.admission not in ("auto", "optimistic"):
        raise ModelError(
            f"engine.admission {spec.admission!r} is not known", hint="one of auto, optimistic"
        )
    if spec.speculation not in ("auto", "off"):
        raise ModelError(
            f"engine.speculation {spec.speculation!r} is not known", hint="one of auto, off"
        )


def _pool_bytes(spec: EngineSpec, device: str, free_bytes: int) -> int:
    """The pool's memory: as asked for, or a share of what is free."""
    if isinstance(spec.kv_memory, int):
        return spec.kv_memory
    share = _DEFAULTS[device].memory_share if spec.kv_memory is None else spec.kv_memory
    return int(free_bytes * share)


def _num_blocks(
    spec: EngineSpec, layout: KVLayout, max_seqs: int, bytes_per_token: int, limit: int
) -> int:
    """Blocks of the pool: as asked for, or what the night needs within `limit` bytes."""
    if spec.num_blocks is not None:
        if not layout.num_pages(spec.num_blocks):
            raise EngineError(
                f"engine.num_blocks {spec.num_blocks} is less than one large page of this model's "
                f"KV pool ({layout.blocks_of_pages(1)} blocks)",
                hint=f"raise it to {layout.blocks_of_pages(len(layout.groups))} or more",
            )
        return spec.num_blocks
    block_size = spec.block_size
    num_blocks = min(limit // (bytes_per_token * block_size), _MAX_BLOCKS)
    if spec.kv_memory is None and spec.needed_tokens is not None:
        # The sum is over requests, but each of those that run at once rounds up to whole blocks.
        needed = -(-spec.needed_tokens // block_size) + max_seqs
        needed = max(needed, -(-(spec.longest_tokens or 0) // block_size))
        # Pages are rounded: where groups differ, each may leave part of one unused.
        needed += layout.blocks_of_pages(len(layout.groups) - 1)
        num_blocks = min(num_blocks, needed)
    if not layout.num_pages(num_blocks):
        raise EngineError(
            f"{limit:,} bytes for the KV pool hold no block of {block_size} tokens "
            f"({bytes_per_token * block_size:,} bytes)",
            hint="raise engine.kv_memory, or free memory on this machine",
        )
    return num_blocks
