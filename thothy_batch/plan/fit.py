"""Which requests can never run: prompt and output together beyond the context or the KV pool."""

from collections.abc import Sequence
from dataclasses import dataclass

from thothy_batch.records import Request


@dataclass(frozen=True, slots=True)
class Unfit:
    """A request that cannot run, and the sentence that says so (prompt_too_long)."""

    index: int  # in the list that was looked at
    message: str


def blocks_needed(request: Request, block_size: int) -> int:
    """KV blocks of all samples at their longest: full prompt blocks once, the rest per sample."""
    prompt_len = len(request.prompt_token_ids)
    total = -(-(prompt_len + request.sampling.max_tokens) // block_size)
    shared = prompt_len // block_size
    return shared + (total - shared) * request.num_samples


def find_unfit(
    requests: Sequence[Request],
    *,
    max_model_len: int,
    num_blocks: int | None = None,
    block_size: int = 32,
) -> list[Unfit]:
    """Requests that fit neither the context nor the pool (`num_blocks`; None: not known yet).

    The engine refuses the same ones, in the same words: all samples of a prompt run at once.
    """
    unfit = []
    for index, request in enumerate(requests):
        message = _why(request, max_model_len, num_blocks, block_size)
        if message:
            unfit.append(Unfit(index, message))
    return unfit


def _why(request: Request, max_model_len: int, num_blocks: int | None, block_size: int) -> str:
    prompt_len = len(request.prompt_token_ids)
    max_tokens = request.sampling.max_tokens
    sizes = f"prompt of {prompt_len} tokens + max_tokens {max_tokens}"
    if prompt_len + max_tokens > max_model_len:
        return f"{sizes} is more than the model's context of {max_model_len} tokens"
    if num_blocks is not None and blocks_needed(request, block_size) > num_blocks:
        samples = f" x {request.num_samples} samples" if request.num_samples > 1 else ""
        pool = num_blocks * block_size
        return f"{sizes}{samples} is more than the KV pool of {pool} tokens"
    return ""
