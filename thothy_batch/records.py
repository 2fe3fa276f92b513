"""The values that pass between the packages. Standard library only."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

TokenIds = Sequence[int]  # array("i") where memory counts, a list or tuple elsewhere


class FinishReason(StrEnum):
    """Why a completion ended. Of several samples the worst counts: see `worst_reason`."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"


class ItemStatus(StrEnum):
    """The end of an entry in a run: exactly one of these."""

    DONE = "done"
    FAILED = "failed"
    REUSED = "reused"
    NOT_RUN = "not_run"


class FailureCode(StrEnum):
    """Why an entry failed."""

    INVALID_INPUT = "invalid_input"
    TEMPLATE_ERROR = "template_error"
    PROMPT_TOO_LONG = "prompt_too_long"
    INVALID_OUTPUT = "invalid_output"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. Resolved: the manifest's defaults are filled in."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that keep KV of the same tokens: the whole context, or a sliding window."""

    layers: tuple[int, ...]  # their numbers in the model, ascending
    window: int | None = None  # tokens that a query attends to, itself included; None: all


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """A prefix that several requests of the run have in common, as planned."""

    prefix_id: int  # unique within a run
    end: int  # tokens from the start of the prompt: whole blocks, more than those of its parent
    num_readers: int  # requests of the run that begin with it, 2 or more


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for the engine and how to sample it."""

    request_id: int  # unique within a run
    request_key: str
    prompt_token_ids: TokenIds
    sampling: Sampling
    seed: int = 0  # 63 bits, derived from seed and request_key; used where temperature > 0
    num_samples: int = 1
    priority: int = 5
    prefixes: tuple[SharedPrefix, ...] | None = None  # shortest first; None: looked up by blocks
    expected_tokens: int | None = None  # output tokens of a sample; None: max_tokens
    # By time.monotonic() of this process; see engine/process/messages.py. None: no deadline.
    ends_at: float | None = None  # not started where it cannot be expected to finish by then
    later_tokens: int = 0  # output tokens of later stages, due by ends_at as well


@dataclass(frozen=True, slots=True)
class Completion:
    """The output of the model for one sample, before any check."""

    token_ids: tuple[int, ...]  # the stop token included
    text: str  # decoded, special tokens left out, cut before a stop string
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class RequestResult:
    """A finished request: its completions (one per sample) and what they cost."""

    request_id: int
    completions: tuple[Completion, ...]
    prompt_tokens: int  # the prompt once, however many samples
    cached_prompt_tokens: int
    output_tokens: int  # sum over samples
    wasted_tokens: int
    queue_s: float
    engine_s: float


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """A request that the engine could not compute."""

    request_id: int
    code: FailureCode
    message: str
    is_certain: bool = True  # False: the machine may be to blame; the next run tries again


@dataclass(frozen=True, slots=True)
class StepSample:
    """About one second of steps (a row of engine_steps). Token counts are sums over it."""

    at_s: float  # since engine ready
    num_running: int
    num_waiting: int
    prefill_tokens: int
    decode_tokens: int
    blocks_used: int
    blocks_total: int
    step_s: float  # mean seconds of a step
    num_preempted: int


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """Sums since engine ready."""

    engine_s: float = 0.0  # from engine ready to the last token so far
    prefill_tokens: int = 0  # prompt tokens computed
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    num_preempted: int = 0
    num_steps: int = 0
    drafted_tokens: int = 0  # drafted and verified; the rejected ones were wasted
    accepted_tokens: int = 0  # drafted tokens that became output tokens
    repeated_prompt_tokens: int = 0  # of prefill_tokens: lost with an engine that died


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """An event of the engine that the user should know of (a row of engine_events)."""

    event: str  # engine_died | request_quarantined | step_budget_raised
    message: str  # a sentence
    num_requests: int  # computed again, or given up
    num_tokens: int  # computed and lost


@dataclass(slots=True)
class EngineUpdate:
    """News since the last poll, and the present state."""

    results: list[RequestResult] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)
    steps: list[StepSample] = field(default_factory=list)
    totals: EngineTotals = field(default_factory=EngineTotals)
    num_running: int = 0
    num_waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    events: list[EngineEvent] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)  # ids: could not finish by their deadlines
    given_back: list[int] = field(default_factory=list)  # ids: never started, and not going to be
    num_deferred: int = 0  # of the waiting ones: would miss their deadlines at the present speed
    condition: str = ""  # restarting | stalled (silent for long) | '' (it runs)


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The most that a device can do, as measured."""

    device: str
    threads: int
    flops: dict[str, float]  # operations a second of the linears, by dtype; "int8" on a CPU
    bandwidth: float  # bytes a second: reading; of a GPU reading and writing, as it copies
    measured_at: str  # ISO 8601
    load: float | None = None  # share of the cores that others had meanwhile; None: unknown


@dataclass(frozen=True, slots=True)
class ResolvedEngine:
    """The settings that an engine computes with. Lengths in tokens."""

    device: str
    impl: str
    dtype: str
    num_blocks: int
    max_seqs: int
    max_step_tokens: int
    max_model_len: int
    admission: str  # reserve | optimistic
    prefix_sharing: bool
    threads: int
    speculation: bool
    bulk_tokens: int
    block_size: int
    layer_groups: tuple[LayerGroup, ...]
    device_limits: DeviceLimits | None = None  # None: not measured

    def as_json(self) -> dict[str, object]:
        """The settings as `runs.engine` records them."""
        groups = [{"num_layers": len(g.layers), "window": g.window} for g in self.layer_groups]
        settings = {name: getattr(self, name) for name in self.__slots__} | {"layer_groups": groups}
        limits = settings.pop("device_limits")
        return settings if limits is None else {**settings, "device_figures": asdict(limits)}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model that an engine computes with."""

    name: str
    commit: str | None  # of the hub; None: a directory, or the embedded model
    dtype: str
    quantization: str = "none"
    architecture: str = ""  # "": the fake model, which has a name and a dtype alone
    num_parameters: int = 0
    num_layers: int = 0
    vocab_size: int = 0
    max_model_len: int = 0
    random_weights: bool = False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts that the engine resolved while it started; stored with the run."""

    model: ResolvedModel
    engine: ResolvedEngine
    versions: dict[str, str]
    load_s: float
    notes: tuple[str, ...] = ()  # what the user may want to know


@dataclass(slots=True)
class Item:
    """One input row. `problem` says why it cannot be used (then `values` may be incomplete)."""

    row: int  # 0-based, within the job's input
    where: str  # "products.parquet row 17", for messages
    item_id: str
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""
    occurrence: int = 1  # of this item_id within its job; 2, 3, ... are duplicates


@dataclass(frozen=True, slots=True)
class EntryKey:
    """An entry: what is due exactly one artifact."""

    job: str
    item_id: str
    variant: str = ""
