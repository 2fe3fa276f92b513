"""Settings for model, engine and sampling."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. Resolved: the manifest's defaults are filled in."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own
    ignore_eos: bool = False
    seed: int | None = None  # None: run.seed
    repetition_penalty: float = 1.0
    repetition_stop: bool = True  # resolved from auto | true | false


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The manifest's model section. `id` "": the embedded model; "builtin:fake": the test one."""

    id: str = ""
    revision: str = "main"
    dtype: str = "auto"  # auto | float32 | bfloat16
    quantization: str = "none"  # none | int8
    random_weights: bool = False
    seed: int = 0  # of random weights


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that an engine needs to start: the manifest's engine and model sections."""

    model: ModelSpec = field(default_factory=ModelSpec)
    device: str = "auto"  # auto | cpu | cuda
    impl: str = "auto"  # auto | reference | cpu | triton | flex
    block_size: int = 32
    kv_memory: int | float | None = None  # bytes (int), share of free memory (float), None: auto
    num_blocks: int | None = None
    max_seqs: int | None = None  # None: auto
    max_step_tokens: int | None = None  # None: auto
    prefix_sharing: bool = True
    admission: str = "auto"  # auto | optimistic
    speculation: str = "auto"  # auto | off
    stall_s: float = 600.0  # seconds without a finished step after which the engine is restarted
    fingerprint: str = ""  # that the model must have, or EngineError; "": any
    needed_tokens: int | None = None  # prompt + max_tokens of all requests; caps the auto pool
    longest_tokens: int | None = None  # most KV of one request, all its samples in whole blocks
    measure_device: bool = False  # measure the device's limits where they are not known yet
    calibrate: bool = False  # measure the model's speed where it is not known yet
