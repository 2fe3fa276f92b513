"""The rotary table that a request reads, for models that have one more for long contexts."""

from collections.abc import Iterable

from thothy_batch.records import Request


def rope_offset_of(request: Request, short_rope_len: int | None) -> int:
    """Return the distance of a request's positions from their rows in the table of the rope.

    0 for the factors of contexts up to `short_rope_len`, which is None if there are no others. If a
    request can grow beyond it, those for longer contexts hold from its first token on: keys are
    rotated once. The last token is drawn but never computed.
    """
    longest = len(request.prompt_token_ids) + request.sampling.max_tokens - 1
    return 0 if short_rope_len is None or longest <= short_rope_len else short_rope_len


def rope_kinds(requests: Iterable[Request], short_rope_len: int | None) -> list[int] | None:
    """Return `rope_offset_of` each request; None if there is one rope for all."""
    if short_rope_len is None:
        return None
    return [rope_offset_of(request, short_rope_len) for request in requests]
