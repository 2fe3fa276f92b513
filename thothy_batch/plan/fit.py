"""Which requests can never run: prompt and output together beyond the context or the KV pool."""

from collections.abc import Sequence
from dataclasses import dataclass

from thothy_batch.records import Request


@dataclass(frozen=True, slots=True)
class Unfit:
    """A request that cannot run, and the sentence that says so (prompt_too_long)."""

    index: int  # in the list that was looked at
    message: str


def find_unfit(
    requests: Sequence[Request], *, max_model_len: int, pool_tokens: int | None = None
) -> list[Unfit]:
    """Requests that fit neither the context nor the pool (None: not known yet), in tokens.

    The engine refuses the same ones. Samples of one prompt can run one after the other, so their
    number does not matter.
    """
    unfit = []
    for index, request in enumerate(requests):
        prompt_len, max_tokens = len(request.prompt_token_ids), request.sampling.max_tokens
        for limit, name in ((max_model_len, "model's context"), (pool_tokens, "KV pool")):
            if limit is not None and prompt_len + max_tokens > limit:
                message = (
                    f"prompt of {prompt_len} tokens and max_tokens of {max_tokens} exceed the "
                    f"{name} of {limit} tokens"
                )
                unfit.append(Unfit(index, message))
                break
    return unfit
