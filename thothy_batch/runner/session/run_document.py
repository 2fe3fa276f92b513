"""The document of `run --json`."""

from typing import Literal, NotRequired

from thothy_batch.errors import ErrorDocument
from thothy_batch.runner.work.count_document import CountsDocument, JobDocument


class RunDocument(CountsDocument):
    """The end of a run. Times in seconds; rates are null where nothing was computed."""

    run_id: str
    status: Literal["completed", "stopped", "failed", "skipped"]
    stop_reason: str
    exit_code: int
    store: str
    model: str
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    wasted_tokens: int
    load_s: float
    engine_s: float
    wall_s: float
    output_tokens_per_s: float | None
    artifacts_per_hour: float | None
    roofline_fraction: float | None
    published: bool
    jobs: list[JobDocument]
    messages: list[str]
    error: NotRequired[ErrorDocument]
