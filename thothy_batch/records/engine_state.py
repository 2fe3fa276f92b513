"""Reports of an engine on itself: what it resolved, what it does, what it has done."""

from dataclasses import asdict, dataclass, field

from thothy_batch.records.requests import RequestFailure, RequestResult


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that keep KV of the same tokens: the whole context, or a sliding window."""

    layers: tuple[int, ...]  # their numbers in the model, ascending
    window: int | None = None  # tokens that a query attends to, itself included; None: all


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

    event: str  # its kind: see engine/process/restart_events.py
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
    device_limits: DeviceLimits | None = None  # the last one; None: not measured

    def as_json(self) -> dict[str, object]:
        """The settings as `runs.engine` records them."""
        groups = [{"num_layers": len(g.layers), "window": g.window} for g in self.layer_groups]
        more = {"device_figures": asdict(self.device_limits)} if self.device_limits else {}
        return {n: getattr(self, n) for n in self.__slots__[:-1]} | {"layer_groups": groups} | more


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
