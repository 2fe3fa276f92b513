"""Types of the document of `plan --json`."""

from typing import TypedDict


class LengthsDocument(TypedDict):
    """Lengths in tokens. The histogram has pairs of upper bound (itself included) and count."""

    num: int
    total: int
    mean: float
    p50: int
    p95: int
    p99: int
    max: int
    histogram: list[tuple[int, int]]


class BlockSharingDocument(TypedDict):
    """Shared prompt prefixes, counted in full blocks."""

    num_prompts: int
    prompt_tokens: int
    unique_tokens: int
    num_blocks: int
    num_unique_blocks: int
    num_shared_blocks: int
    max_readers: int
    block_size: int
    shared_fraction: float


class RequestsDocument(TypedDict):
    """The requests to compute. Outputs count as max_tokens, the upper bound."""

    num_requests: int
    num_sequences: int
    prompt: LengthsDocument
    output: LengthsDocument
    sharing: BlockSharingDocument
    needed_tokens: int
    longest_tokens: int


class PlanModel(TypedDict):
    """The model, as far as it is known without its weights."""

    name: str
    commit: str | None
    dtype: str
    quantization: str
    fingerprint: str
    max_model_len: int
    vocab_size: int
    has_chat_template: bool


class WindowGain(TypedDict):
    """Sequences of one context length that fit, relative to full attention in every layer."""

    context: int
    gain: float


class PlanEngine(TypedDict):
    """The engine that a run would start now, and its use of the KV pool.

    pool_blocks: what all requests at once would need; peak_*: as simulated, null without a
    prediction; capacity: null where every layer has full attention.
    """

    device: str
    impl: str
    threads: int
    block_size: int
    num_blocks: int
    pool_bytes: int
    pool_blocks: int
    peak_blocks: int | None
    peak_running: int | None
    max_seqs: int
    max_step_tokens: int
    largest_request_blocks: int
    capacity: list[WindowGain] | None


class PlanCounts(TypedDict):
    """Entries by what a run would do with them; null where the store could not be read."""

    num_items: int
    num_failed: int
    num_failed_before: int | None
    num_already_done: int | None
    num_duplicates: int
    num_to_compute: int


class PlanJob(TypedDict):
    """One job.

    num_files: files that are read, null where SQL names none; num_rows: rows that are read,
    as many as --limit allows; failed: entries that cannot be computed, by code.
    """

    name: str
    kind: str
    priority: int
    num_files: int | None
    num_rows: int | None
    num_items: int
    num_already_done: int
    num_failed_before: int
    num_duplicates: int
    num_to_compute: int
    failed: dict[str, int]
    prompt_tokens: int
    prompt: LengthsDocument
    shared_prompt_tokens: int
    max_tokens: int
    expected_tokens: int
    expected_from: str  # exact | history | max_tokens
    predicted_s: float | None
    predicted_finish_s: float | None


class PlanSharing(TypedDict):
    """Prompt tokens computed once for several requests.

    planned_*: what the engine will compute; null where that depends on evictions.
    """

    prompt_tokens: int
    unique_prompt_tokens: int
    planned_prompt_tokens: int | None
    planned_fraction: float | None
    num_prefixes: int
    num_levels: int


class PlanCosts(TypedDict):
    """Prompt tokens that repeat text of other prompts outside a shared prefix, by job."""

    repeated_tokens: int
    repeated: dict[str, int]


class PlanEstimate(TypedDict):
    """Seconds of engine time; null where nothing was measured. `time_left_s`: to the deadline."""

    seconds: float | None
    output_tokens_per_s: float | None
    output_tokens: int | None
    source: str | None
    reason: str
    time_left_s: float | None


class RefusedEntry(TypedDict):
    """An entry that the KV pool can never hold."""

    job: str
    item_id: str
    variant: str
    message: str


class PlanDocument(PlanCounts):
    """A run before it starts.

    exit_code: that of the plan, and of a run that goes as planned; examples: the first message of
    each failure code.
    """

    exit_code: int
    manifest: str
    store: str
    model: PlanModel
    engine: PlanEngine
    jobs: list[PlanJob]
    requests: RequestsDocument
    sharing: PlanSharing
    costs: PlanCosts
    estimate: PlanEstimate
    refused: list[RefusedEntry]
    examples: dict[str, str]
    notes: list[str]
    first_prompt: str
