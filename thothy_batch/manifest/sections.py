"""The keys of a manifest: their types, defaults and bounds. One class per section."""

from typing import Annotated, Any, Literal

from thothy_batch.choices import (
    MAX_BLOCKS,
    MAX_COUNT,
    SAMPLING_BOUNDS,
    Admission,
    Device,
    Dtype,
    Impl,
    Order,
    Quantization,
    Speculation,
)
from thothy_batch.errors import Problem
from thothy_batch.manifest.inputs import InputSettings, JobFileSettings
from thothy_batch.manifest.values import (
    AutoCount,
    Duration,
    KvMemory,
    Name,
    NonEmpty,
    PossiblyNoTexts,
    TemplateKwargs,
    check_deadline,
    check_metrics_file,
    later,
)
from thothy_batch.yaml_source import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    StrictModel,
    Tag,
)

_WITHIN = {name: Field(**bounds.as_field()) for name, bounds in SAMPLING_BOUNDS.items()}


def _no_split(value: object) -> object:
    if value == "split":
        raise ValueError(
            "'split' does not exist yet (splitting comes later); "
            "use fail, truncate_head or truncate_tail"
        )
    return value


def _jobs_shape(value: object) -> str:
    return "file" if isinstance(value, dict | JobFileSettings) else "list"


class ModelSettings(StrictModel):
    """The model that generates."""

    id: str = Field(default="", description="Hub id or directory. Default: the embedded model.")
    revision: NonEmpty = Field(default="main", description="Branch, tag or commit on the hub.")
    dtype: Dtype = Field(
        default="auto", description="Number format of the weights and of the KV cache."
    )
    quantization: Annotated[Quantization, later("fp8", use="none or int8")] = Field(
        default="none",
        description="int8: weights and activations of the linears in 8 bits, on a CPU.",
    )
    random_weights: bool = Field(
        default=False, description="For benchmarks: build from config.json alone, read no weights."
    )
    seed: Annotated[int, _WITHIN["seed"]] = Field(default=0, description="Seed of random weights.")
    chat_template_kwargs: TemplateKwargs = Field(
        default_factory=dict,
        description="Variables of the chat template, for example {enable_thinking: false}.",
    )


class EngineSettings(StrictModel):
    """Settings of the engine, which do not change results."""

    device: Device = Field(default="auto", description="Where the model runs.")
    impl: Impl = Field(
        default="auto", description="Which kernels are used; triton and flex need a GPU."
    )
    block_size: int = Field(default=32, ge=1, le=MAX_COUNT, description="Tokens per KV block.")
    kv_memory: KvMemory = Field(
        default=None,
        description='Memory for KV blocks: auto, "8GiB", or a share of free memory such as 0.9.',
    )
    num_blocks: int | None = Field(
        default=None,
        ge=1,
        le=MAX_BLOCKS,
        description="For tests: size of the KV pool in blocks, in place of kv_memory.",
    )
    max_seqs: AutoCount = Field(default=None, description="Maximum number of running sequences.")
    max_step_tokens: AutoCount = Field(
        default=None, description="Maximum number of tokens in a step."
    )
    prefix_sharing: bool = Field(
        default=True, description="Compute common prefixes of prompts once."
    )
    admission: Admission = Field(
        default="auto",
        description="auto reserves what is expected; optimistic admits while a block is free and "
        "may preempt.",
    )
    speculation: Speculation = Field(
        default="auto",
        description="auto: on a CPU, draft the next tokens of greedy requests from their own text "
        "and verify several in a step, where that pays.",
    )
    order: Order = Field(default="auto", description="Order in which requests are computed.")


class RunSettings(StrictModel):
    """Seed of a run and conditions that stop it."""

    seed: Annotated[int, _WITHIN["seed"]] = Field(
        default=0, description="Seed of jobs that set none."
    )
    deadline: Annotated[str | None, BeforeValidator(check_deadline)] = Field(
        default=None,
        description="Stop at this time: 06:00 (its next occurrence) or an ISO date and time.",
    )
    time_budget: Duration | None = Field(
        default=None, description="Stop after this duration: 90s, 30m, 5h."
    )
    grace: Duration = Field(
        default=30.0, description="Time that running requests get when a run stops: 30s."
    )
    stall_after: Duration = Field(
        default=600.0,
        ge=2.0,
        description="Restart an engine that finishes no step for this long: 10m.",
    )
    metrics_file: Annotated[str | None, BeforeValidator(check_metrics_file)] = Field(
        default=None,
        description="Prometheus text file of the run's metrics, replaced every second: night.prom.",
    )
    max_attempts: int = Field(
        default=2,
        ge=1,
        description="Most attempts of a request in one run while its completions are rejected or "
        "flagged: with another seed, or with twice the max_tokens after a cut-off.",
    )


class SamplingSettings(StrictModel):
    """Sampling settings. None takes the kind's default."""

    temperature: Annotated[float | None, _WITHIN["temperature"]] = Field(
        default=None,
        description="0: the most likely token; higher: more variety.",
    )
    top_p: Annotated[float | None, _WITHIN["top_p"]] = Field(
        default=None,
        description="Sample from the most likely tokens of this total probability.",
    )
    top_k: Annotated[int | None, _WITHIN["top_k"]] = Field(
        default=None,
        description="Sample from this many most likely tokens; 0: no limit.",
    )
    max_tokens: Annotated[int | None, _WITHIN["max_tokens"]] = Field(
        default=None, description="Maximum number of tokens of a completion."
    )
    stop: PossiblyNoTexts | None = Field(
        default=None,
        description="Strings that end a completion and are removed from it, special tokens too.",
    )
    stop_token_ids: list[Annotated[int, Field(ge=0, le=MAX_COUNT)]] | None = Field(
        default=None,
        description="Ids that end a completion, besides the model's own; also with ignore_eos.",
    )
    ignore_eos: bool | None = Field(
        default=None, description="Continue after the model's end token, up to max_tokens."
    )
    seed: Annotated[int | None, _WITHIN["seed"]] = Field(
        default=None, description="Seed of this job. Default: run.seed."
    )
    repetition_penalty: Annotated[float | None, _WITHIN["repetition_penalty"]] = Field(
        default=None,
        description="Above 1: tokens that occurred before become less likely.",
    )
    repetition_stop: Literal["auto", True, False] | None = Field(
        default=None,
        description="End completions that loop; auto: not for raw, not with ignore_eos.",
    )

    def given(self) -> dict[str, object]:
        """Return the settings that the manifest sets."""
        return self.model_dump(exclude_none=True)


class JobSettings(StrictModel):
    """One job: input, kind, parameters, sampling."""

    name: Name = Field(description="Name of the job, unique in the manifest.")
    kind: Name = Field(
        description="summary, hook, translation, report, raw, or the path of a kind file."
    )
    input: InputSettings = Field(
        description="Glob or globs of Parquet files or directories, or {sql: select ...}."
    )
    columns: dict[str, NonEmpty] = Field(
        default_factory=dict, description="Our name: their name. Default: the same name."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the kind.")
    sampling: SamplingSettings = Field(
        default=SamplingSettings(),
        description="Sampling settings; missing keys take the kind's default.",
    )
    chat_template_kwargs: TemplateKwargs = Field(
        default_factory=dict,
        description="Variables of the chat template for this job, before the model's.",
    )
    priority: int = Field(default=5, ge=0, le=9, description="9 runs first, 0 last.")
    on_too_long: Annotated[
        Literal["fail", "truncate_head", "truncate_tail"], BeforeValidator(_no_split)
    ] = Field(default="fail", description="What happens to a prompt that does not fit.")
    deadline: Annotated[str | None, BeforeValidator(check_deadline)] = Field(
        default=None,
        description="Rows that cannot finish by then are not started; of one priority, the job "
        "with the earliest deadline goes first: 06:00 or an ISO date and time.",
    )
    max_failed_pct: float = Field(
        default=20,
        ge=0,
        le=100,
        description="The job stops when more of its completed requests failed, after 20 of them.",
    )
    _path: str = PrivateAttr(default="")
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    def problem(self, key: str, message: str, hint: str = "") -> Problem:
        """Make a problem at the line of a key (`kind`, `sampling.temperature`, ...)."""
        line = self._lines.get(key) or self._lines.get(key.split(".")[0]) or self._lines.get("")
        return Problem(f"job {self.name!r}: {message}", self._path, line, hint)

    def locate(self, path: str, lines: dict[str, int]) -> None:
        """Record the file and the lines by dotted key, "" for the job itself."""
        self._path, self._lines = path, lines


class OutputSettings(StrictModel):
    """Settings of what is stored beside the text."""

    token_ids: bool = Field(default=False, description="Also store output_token_ids.")


class ManifestFile(StrictModel):
    """A manifest as it is written."""

    store: NonEmpty = Field(
        default="artifacts.duckdb", description="The DuckDB file of the results."
    )
    model: ModelSettings = Field(
        default=ModelSettings(), description="The model and its number format."
    )
    engine: EngineSettings = Field(default=EngineSettings(), description="Settings of the engine.")
    run: RunSettings = Field(
        default=RunSettings(), description="Seed and stop conditions of a run."
    )
    jobs: Annotated[
        Annotated[list[JobSettings], Tag("list"), Field(min_length=1)]
        | Annotated[JobFileSettings, Tag("file")],
        Discriminator(_jobs_shape),
    ] = Field(description="The jobs, or {parquet: night.parquet}.")
    output: OutputSettings = Field(
        default=OutputSettings(), description="What is stored beside the text of an artifact."
    )
