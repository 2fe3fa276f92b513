"""The engine's settings, resolved once from the manifest and the machine, then frozen."""

from dataclasses import dataclass

from thothy_batch.engine.layout import KVLayout
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, LayerGroup

IMPLS = ("reference", "cpu")
_LATER_IMPLS = ("triton", "flex")

# A step's cost on a CPU grows with its tokens from about eight on: larger steps save nothing,
# they only make finished rows wait and need more memory for activations.
_CPU_STEP_TOKENS = 2048
_CPU_MAX_SEQS = 256
_CPU_MEMORY_SHARE = 0.5


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
    """The device to compute on. ModelError for what does not exist (yet)."""
    if device in ("auto", "cpu"):
        return "cpu"
    if device == "cuda":
        raise ModelError(
            "engine.device cuda: this version computes on the CPU only",
            hint="set engine.device to cpu or auto",
        )
    raise ModelError(f"engine.device {device!r} is not known", hint="one of auto, cpu")


def resolve_impl(impl: str, device: str) -> str:
    """The implementation of the kernels; `auto` picks the fastest of the device."""
    if impl == "auto":
        return device
    if impl in IMPLS:
        return impl
    if impl in _LATER_IMPLS:
        raise ModelError(
            f"engine.impl {impl} does not exist yet", hint=f"use auto or one of {', '.join(IMPLS)}"
        )
    raise ModelError(
        f"engine.impl {impl!r} is not known", hint=f"use auto or one of {', '.join(IMPLS)}"
    )


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
    """Fill in what the manifest left to `auto`.

    `bytes_per_token`: KV of one token in all layers; `free_bytes`: memory that could be taken now.
    """
    _check_counts(spec)
    device = resolve_device(spec.device)
    layout = KVLayout(layer_groups, spec.block_size)
    max_step_tokens = step_tokens(spec)
    # Every running sequence decodes in every step: more of them than a step holds would only wait.
    max_seqs = min(spec.max_seqs or _CPU_MAX_SEQS, max_step_tokens)
    return EngineConfig(
        device=device,
        impl=resolve_impl(spec.impl, device),
        dtype=dtype,
        layout=layout,
        num_blocks=_num_blocks(spec, layout, max_seqs, bytes_per_token, free_bytes),
        max_seqs=max_seqs,
        max_step_tokens=max_step_tokens,
        max_model_len=max_model_len,
        admission="optimistic" if spec.admission == "optimistic" else "reserve",
        prefix_sharing=spec.prefix_sharing,
        threads=threads,
    )


def step_tokens(spec: EngineSpec) -> int:
    """Most tokens that one step computes."""
    return spec.max_step_tokens or _CPU_STEP_TOKENS


def _check_counts(spec: EngineSpec) -> None:
    for name in ("block_size", "num_blocks", "max_seqs", "max_step_tokens"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ModelError(f"engine.{name} is {value}", hint="it must be at least 1")
    if spec.admission not in ("auto", "optimistic"):
        raise ModelError(
            f"engine.admission {spec.admission!r} is not known", hint="one of auto, optimistic"
        )


def _num_blocks(
    spec: EngineSpec, layout: KVLayout, max_seqs: int, bytes_per_token: int, free_bytes: int
) -> int:
    """Blocks of the pool: as asked for, or what the night needs within a share of free memory."""
    if spec.num_blocks is not None:
        if not layout.num_pages(spec.num_blocks):
            raise EngineError(
                f"engine.num_blocks {spec.num_blocks} is less than one large page of this model's "
                f"KV pool ({layout.blocks_of_pages(1)} blocks)",
                hint=f"raise it to {layout.blocks_of_pages(len(layout.groups))} or more",
            )
        return spec.num_blocks
    block_size = spec.block_size
    kv_memory = spec.kv_memory
    if isinstance(kv_memory, int):
        limit = kv_memory
    else:
        limit = int(free_bytes * (_CPU_MEMORY_SHARE if kv_memory is None else kv_memory))
    num_blocks = limit // (bytes_per_token * block_size)
    if kv_memory is None and spec.needed_tokens is not None:
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
