"""The status file of a run, and the document of `status --json`."""

from typing import Literal, NotRequired, TypedDict

from thothy_batch.errors import ErrorDocument
from thothy_batch.report import NightRow
from thothy_batch.runner.work.count_document import JobDocument


class ProgressDocument(TypedDict):
    """A run at one moment."""

    elapsed_s: float
    num_items: int
    num_settled: int
    num_running: int
    num_waiting: int
    blocks_used: int
    blocks_total: int
    output_tokens: int
    output_tokens_per_s: float
    tokens_left: int
    eta_s: float | None
    jobs: list[JobDocument]


class StatusFileDocument(TypedDict):
    """A run as its status file has it; `state` is "finished" once it has ended, or "killed".

    Counts appear once they are known, progress while the engine computes, the figures of
    `run --json` at the end.
    """

    state: str
    run_id: str
    pid: int
    host: str
    manifest: str
    store: str
    started_at: str
    updated_at: str
    metrics_file: NotRequired[str]
    num_items: NotRequired[int]
    num_done: NotRequired[int]
    num_failed: NotRequired[int]
    num_reused: NotRequired[int]
    num_not_run: NotRequired[int]
    num_flagged: NotRequired[int]
    num_settled: NotRequired[int]
    elapsed_s: NotRequired[float]
    num_running: NotRequired[int]
    num_waiting: NotRequired[int]
    blocks_used: NotRequired[int]
    blocks_total: NotRequired[int]
    tokens_left: NotRequired[int]
    eta_s: NotRequired[float | None]
    jobs: NotRequired[list[JobDocument]]
    status: NotRequired[str]
    stop_reason: NotRequired[str]
    exit_code: NotRequired[int]
    model: NotRequired[str]
    prompt_tokens: NotRequired[int]
    cached_prompt_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    wasted_tokens: NotRequired[int]
    load_s: NotRequired[float]
    engine_s: NotRequired[float]
    wall_s: NotRequired[float]
    output_tokens_per_s: NotRequired[float | None]
    artifacts_per_hour: NotRequired[float | None]
    roofline_fraction: NotRequired[float | None]
    published: NotRequired[bool]
    messages: NotRequired[list[str]]
    error: NotRequired[str | ErrorDocument]


class RunningDocument(TypedDict):
    """A store that a run holds."""

    store: str
    state: Literal["running"]
    run_id: str
    pid: int
    host: str
    since: str
    manifest: str
    progress: StatusFileDocument | None
    last_run: None


class IdleDocument(TypedDict):
    """A store that no run holds.

    `published` is false where another program keeps the database open or its disk is full: rows
    then wait in the journal, and `last_run` comes from the status file. `progress` is null unless
    the store has no run yet.
    """

    store: str
    state: Literal["idle"]
    published: bool
    last_run: NightRow | StatusFileDocument | None
    progress: StatusFileDocument | None


StatusDocument = RunningDocument | IdleDocument
