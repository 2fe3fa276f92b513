"""Requests to an engine, and its answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from thothy_batch.records.specs import Sampling

TokenIds = Sequence[int]  # array("i") where memory counts, a list or tuple elsewhere


class FinishReason(StrEnum):
    """Why a completion ended. Of several samples the worst counts: see `worst_reason`."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"


class FailureCode(StrEnum):
    """Why an entry failed."""

    INVALID_INPUT = "invalid_input"
    TEMPLATE_ERROR = "template_error"
    PROMPT_TOO_LONG = "prompt_too_long"
    INVALID_OUTPUT = "invalid_output"
    ENGINE_ERROR = "engine_error"


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
    prefixes: tuple[SharedPrefix, ...] | None = None  # shortest first; None: blocks are looked up
    expected_tokens: int | None = None  # output tokens of a sample; None: max_tokens
    ends_at: float | None = None  # by time.monotonic(); not started if it cannot finish by then
    later_tokens: int = 0  # output tokens of later stages, due by ends_at as well
    later_prompt_tokens: int = 0  # of their prompts, those to compute


@dataclass(frozen=True, slots=True)
class Completion:
    """The output of the model for one sample, before any check."""

    token_ids: tuple[int, ...]  # the stop token included
    text: str  # decoded, special tokens left out, cut before a stop string
    finish_reason: FinishReason
    reasoning: str = ""  # written before the text; it is part of neither text nor token_ids
    ends_in_reasoning: bool = False  # no text followed it


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
