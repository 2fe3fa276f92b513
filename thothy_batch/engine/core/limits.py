"""Request limits: requests that can never run, because of model context, KV pool or bad input."""

from dataclasses import dataclass

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.records import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Capacity of an engine. Lengths in tokens."""

    max_model_len: int
    layout: KVLayout
    max_step_tokens: int
    num_blocks: int | None  # None: the pool is not known yet

    @classmethod
    def of(cls, config: EngineConfig) -> "Limits":
        return cls(config.max_model_len, config.layout, config.max_step_tokens, config.num_blocks)


def blocks_needed(request: Request, limits: Limits) -> int:
    """Return the smallest pool, in blocks of all layers, that runs all samples of a request."""
    prompt_len, max_tokens = len(request.prompt_token_ids), request.sampling.max_tokens
    step = min(prompt_len + max_tokens, limits.max_step_tokens)
    return limits.layout.smallest_pool(prompt_len, max_tokens, request.num_samples, step)


def why_unfit(request: Request, limits: Limits) -> str:
    """Return why a request can never run (prompt_too_long), as a sentence; "" if it can."""
    prompt_len, max_tokens = len(request.prompt_token_ids), request.sampling.max_tokens
    sizes = f"prompt of {prompt_len} tokens + max_tokens {max_tokens}"
    if prompt_len + max_tokens > limits.max_model_len:
        return f"{sizes} is more than the model's context of {limits.max_model_len} tokens"
    if limits.num_blocks is None:
        return ""
    smallest = blocks_needed(request, limits)
    if smallest <= limits.num_blocks:
        return ""
    samples = f" x {request.num_samples} samples" if request.num_samples > 1 else ""
    block_size = limits.layout.block_size
    return (
        f"{sizes}{samples} is more than the KV pool of {limits.num_blocks * block_size} tokens; "
        f"the smallest that would take it holds {smallest * block_size} "
        f"({smallest} blocks of {block_size})"
    )


def why_invalid(
    request: Request, *, vocab_size: int, max_samples: int | None, has_tokenizer: bool
) -> str:
    """Return why a request is invalid for this model; "" if it is valid.

    `max_samples`: most samples of a request; None: any number.
    """
    sampling = request.sampling
    if not len(request.prompt_token_ids):
        return "the prompt is empty"
    if sampling.max_tokens < 1 or request.num_samples < 1:
        return f"max_tokens {sampling.max_tokens} x {request.num_samples} samples is no output"
    if max_samples is not None and request.num_samples > max_samples:
        return f"{request.num_samples} samples are more than the {max_samples} rows of a step"
    if sampling.stop and not has_tokenizer:
        return "stop strings need a tokenizer, and the model has none"
    lowest, highest = min(request.prompt_token_ids), max(request.prompt_token_ids)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        return f"token id {wrong} is outside the vocabulary of {vocab_size}"
    return ""
