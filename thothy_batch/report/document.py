"""The document of `report --json`: one run as the store has it. Times are ISO 8601, local."""

from typing import NotRequired, TypedDict


class RunRow(TypedDict):
    """A row of the table runs. Columns of later schemas are missing in older stores."""

    run_id: str
    name: str | None
    status: str
    stop_reason: str | None
    exit_code: int | None
    started_at: str | None
    finished_at: str | None
    manifest: dict[str, object] | None
    manifest_hash: str | None
    model: dict[str, object] | None
    engine: dict[str, object] | None
    versions: dict[str, object] | None
    host: str | None
    num_items: int | None
    num_done: int | None
    num_failed: int | None
    num_reused: int | None
    num_not_run: int | None
    prompt_tokens: int | None
    cached_prompt_tokens: int | None
    output_tokens: int | None
    wasted_tokens: int | None
    load_s: float | None
    engine_s: float | None
    wall_s: float | None
    output_tokens_per_s: float | None
    artifacts_per_hour: float | None
    roofline_fraction: float | None
    engine_ready_at: str | None
    last_seen_at: str | None
    computed_tokens: int | None
    predicted_s: NotRequired[float | None]
    planned_prompt_tokens: NotRequired[int | None]
    computed_prompt_tokens: NotRequired[int | None]


class JobRow(TypedDict):
    """A row of the table job_stats; only the counts known so far while the run goes on."""

    run_id: NotRequired[str]
    job: str
    kind: str
    priority: NotRequired[int | None]
    num_items: int | None
    num_done: int | None
    num_failed: int | None
    num_reused: int | None
    num_not_run: NotRequired[int | None]
    prompt_tokens: NotRequired[int | None]
    cached_prompt_tokens: NotRequired[int | None]
    output_tokens: NotRequired[int | None]
    wasted_tokens: NotRequired[int | None]
    num_flagged: NotRequired[int | None]
    queue_s_p50: NotRequired[float | None]
    queue_s_p95: NotRequired[float | None]
    prompt_tokens_p50: NotRequired[float | None]
    prompt_tokens_p95: NotRequired[float | None]
    output_tokens_p50: NotRequired[float | None]
    output_tokens_p95: NotRequired[float | None]
    first_admitted_at: NotRequired[str | None]
    finished_at: NotRequired[str | None]
    engine_s: NotRequired[float | None]
    output_tokens_per_s: NotRequired[float | None]
    artifacts_per_hour: NotRequired[float | None]
    finish_reasons: NotRequired[dict[str, int] | None]
    predicted_s: NotRequired[float | None]
    flags: NotRequired[dict[str, int] | None]


class FailedEntry(TypedDict):
    """An entry that failed, and why."""

    job: str
    item_id: str
    variant: str
    message: str


class FailureGroup(TypedDict):
    """Failures of one code: their number and the first few."""

    code: str
    num: int
    examples: list[FailedEntry]


class FlagCount(TypedDict):
    """Artifacts of one job that one check flagged."""

    job: str
    flag: str
    num: int


class StepPoint(TypedDict):
    """A stretch of the run, averaged from the engine's samples; `at_s` is its end."""

    at_s: float | None
    decode_tokens_per_s: float | None
    prefill_tokens_per_s: float | None
    num_running: float | None
    kv_use: float | None
    num_preempted: int | None


class EventRow(TypedDict):
    """A row of the table engine_events."""

    happened_at: str | None
    event: str
    message: str
    num_requests: int | None
    num_tokens: int | None


class NightRow(TypedDict):
    """A row of the view nights. A change of 0.1 is 10 % more than `num_compared` runs before: the
    last seven of the same jobs that completed and computed something."""

    run_id: str
    name: str | None
    started_at: str | None
    status: str
    stop_reason: str | None
    wall_s: float | None
    engine_s: float | None
    num_items: int | None
    num_done: int | None
    num_failed: int | None
    num_reused: int | None
    num_not_run: int | None
    prompt_tokens: int | None
    cached_prompt_tokens: int | None
    output_tokens: int | None
    wasted_tokens: int | None
    output_tokens_per_s: float | None
    artifacts_per_hour: float | None
    output_tokens_per_s_change: float | None
    artifacts_per_hour_change: float | None
    engine_s_change: float | None
    num_compared: int
    roofline_fraction: NotRequired[float | None]
    predicted_s: NotRequired[float | None]


class ReportDocument(TypedDict):
    """The report of one run; `nights` are those before it and itself, newest first."""

    store: str
    run: RunRow
    jobs: list[JobRow]
    failures: list[FailureGroup]
    flags: list[FlagCount]
    steps: list[StepPoint]
    events: list[EventRow]
    nights: list[NightRow]
