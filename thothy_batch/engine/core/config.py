"""The engine's settings, resolved once from the manifest and the machine, then frozen."""

import os
from dataclasses import dataclass, replace

from thothy_batch.choices import ADMISSIONS, DEVICES, IMPLS, MAX_BLOCKS, SPECULATIONS
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.hardware.gpu import LEAST_CAPABILITY, find_gpu, why_no_gpu
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, LayerGroup

_FASTEST = {"cpu": "cpu", "cuda": "triton"}  # by device


@dataclass(frozen=True, slots=True)
class _Defaults:
    """The values that `auto` stands for on a device."""

    step_tokens: int
    max_seqs: int
    memory_share: float  # of free memory, for the KV pool
    bulk_tokens: int


_DEFAULTS = {
    # Above about eight tokens a CPU step costs in proportion to its tokens. Larger steps save
    # nothing: they delay finished sequences and need more memory for activations.
    "cpu": _Defaults(step_tokens=2048, max_seqs=256, memory_share=0.5, bulk_tokens=0),
    # A GPU's matrix products reach their peak rate at some thousands of tokens, and a decode step
    # reads the weights once for all of its sequences. No other program uses the GPU's memory.
    "cuda": _Defaults(step_tokens=8192, max_seqs=1024, memory_share=0.92, bulk_tokens=4096),
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of scheduler and model runner. Lengths in tokens."""

    device: str
    impl: str
    dtype: str
    layout: KVLayout
    num_blocks: int  # size of the pool, in blocks of all layers
    max_seqs: int
    max_step_tokens: int
    max_model_len: int
    admission: str  # reserve | optimistic
    prefix_sharing: bool
    threads: int = 1
    speculation: bool = False  # verify drafts of greedy sequences where that is faster
    bulk_tokens: int = 0  # fewest prompt tokens for a step that also decodes; 0: any number
    short_rope_len: int | None = None  # see `rope_offset_of`

    @property
    def block_size(self) -> int:
        return self.layout.block_size

    @property
    def num_pages(self) -> int:
        """Large pages of the pool."""
        return self.layout.num_pages(self.num_blocks)

    @property
    def pool_tokens(self) -> int:
        """Capacity of the pool in tokens of all layers."""
        return self.num_blocks * self.block_size


def resolve_device(device: str) -> str:
    """Return the device to compute on; `auto` picks a GPU if one is usable.

    Raises ModelError for an unknown or unusable device.
    """
    if device == "cpu":
        return "cpu"
    if device not in DEVICES:
        raise ModelError(
            f"engine.device {device!r} is not known", hint=f"one of {', '.join(DEVICES)}"
        )
    gpu = find_gpu()
    if gpu is not None and gpu.is_supported:
        return "cuda"
    if device == "auto":
        return "cpu"
    if gpu is not None:
        raise ModelError(
            f"engine.device cuda: {gpu.name} has compute capability {gpu.capability}, and "
            f"{LEAST_CAPABILITY} is the lowest that is supported",
            hint="set engine.device to cpu or auto",
        )
    raise ModelError(
        f"engine.device cuda: no NVIDIA GPU can be used here: {why_no_gpu()}",
        hint="set engine.device to cpu or auto, or install a torch with CUDA",
    )


def resolve_impl(impl: str, device: str) -> str:
    """Return the kernel implementation; `auto` picks the fastest one for the device."""
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
    # The interpreter is for tests: it takes seconds per token.
    if impl == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ModelError(
            "engine.impl triton needs an NVIDIA GPU, and engine.device is the CPU",
            hint="use engine.impl auto (for tests, TRITON_INTERPRET=1 runs the interpreter)",
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
    """Return the implementation of all operations but attention; `flex` covers attention only."""
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
    short_rope_len: int | None = None,
) -> EngineConfig:
    """Fill in what the manifest left to `auto`. `spec` is a result of `resolve_spec`.

    `bytes_per_token`: KV of one token in all layers; `free_bytes`: memory available now.
    """
    _check_counts(spec)
    device = spec.device
    layout = KVLayout(layer_groups, spec.block_size)
    max_step_tokens = spec.max_step_tokens or _DEFAULTS[device].step_tokens
    # Every running sequence decodes in every step: those beyond a step's tokens would only wait.
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
        short_rope_len=short_rope_len,
    )


def step_tokens(spec: EngineSpec) -> int:
    """Most tokens that one step computes. `spec` is a result of `resolve_spec`."""
    return spec.max_step_tokens or _DEFAULTS[spec.device].step_tokens


def _check_counts(spec: EngineSpec) -> None:
    for name in ("block_size", "num_blocks", "max_seqs", "max_step_tokens"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ModelError(f"engine.{name} is {value}", hint="it must be at least 1")
    for name, words in (("admission", ADMISSIONS), ("speculation", SPECULATIONS)):
        if (word := getattr(spec, name)) not in words:
            raise ModelError(
                f"engine.{name} {word!r} is not known", hint=f"one of {', '.join(words)}"
            )


def _pool_bytes(spec: EngineSpec, device: str, free_bytes: int) -> int:
    """Return the pool's size in bytes: the one requested, or a share of free memory."""
    if isinstance(spec.kv_memory, int):
        return spec.kv_memory
    share = _DEFAULTS[device].memory_share if spec.kv_memory is None else spec.kv_memory
    return int(free_bytes * share)


def _num_blocks(
    spec: EngineSpec, layout: KVLayout, max_seqs: int, bytes_per_token: int, limit: int
) -> int:
    """Return the pool's blocks: as requested, or what the run needs within `limit` bytes."""
    if spec.num_blocks is not None:
        if not layout.num_pages(spec.num_blocks):
            raise EngineError(
                f"engine.num_blocks {spec.num_blocks} is less than one large page of this model's "
                f"KV pool ({layout.blocks_of_pages(1)} blocks)",
                hint=f"raise it to {layout.blocks_of_pages(len(layout.groups))} or more",
            )
        return spec.num_blocks
    block_size = spec.block_size
    num_blocks = min(limit // (bytes_per_token * block_size), MAX_BLOCKS)
    if spec.kv_memory is None and spec.needed_tokens is not None:
        # The sum is over requests; each running one rounds up to whole blocks.
        needed = -(-spec.needed_tokens // block_size) + max_seqs
        needed = max(needed, -(-(spec.longest_tokens or 0) // block_size))
        # With several groups each may leave part of a large page unused.
        needed += layout.blocks_of_pages(len(layout.groups) - 1)
        num_blocks = min(num_blocks, needed)
    if not layout.num_pages(num_blocks):
        raise EngineError(
            f"{limit:,} bytes for the KV pool hold no block of {block_size} tokens "
            f"({bytes_per_token * block_size:,} bytes)",
            hint="raise engine.kv_memory, or free memory on this machine",
        )
    return num_blocks
