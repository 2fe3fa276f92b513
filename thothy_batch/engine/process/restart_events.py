"""User-facing events for engine restarts."""

from thothy_batch.errors import EngineError
from thothy_batch.records import EngineEvent, FailureCode, Request, RequestFailure


def died(
    error: EngineError, num_again: int, lost: int, *, at_start: bool, smaller: int
) -> EngineEvent:
    """An engine died: `num_again` requests are computed again, `lost` tokens with them.
    `smaller`: tokens that a step of the next one may have; 0: as before."""
    if at_start:
        return EngineEvent("engine_died", f"an engine did not start: {error.message}", 0, 0)
    again = f"; {num_again:,} requests go to the next one" if num_again else ""
    message = f"the engine died: {error.message}{again}; {lost:,} tokens are lost"
    if smaller:
        message += f"; its steps have at most {smaller:,} tokens"
    return EngineEvent("engine_died", message, num_again, lost)


def given_up(request: Request, error: EngineError) -> RequestFailure:
    """A request is not computed any more, because it kills the engine."""
    return RequestFailure(
        request.request_id,
        FailureCode.ENGINE_ERROR,
        f"the engine died each time it computed this row, at last alone: {error.message}",
    )


def quarantined(failure: RequestFailure) -> EngineEvent:
    """A request that was given up is reported."""
    return EngineEvent("request_quarantined", failure.message, 1, 0)


def pool_shrunk(num_tokens: int) -> EngineEvent:
    """A restarted engine has a smaller KV pool."""
    message = (
        f"the restarted engine found memory for a KV pool of {num_tokens:,} tokens only; "
        "requests that need more wait until the others are done"
    )
    return EngineEvent("pool_shrunk", message, 0, 0)


def larger_pool_wanted(num_requests: int) -> EngineEvent:
    """An engine is closed, so that the next one finds memory for a larger KV pool."""
    message = f"the engine is started once more: {num_requests:,} requests need a larger KV pool"
    return EngineEvent("larger_pool_wanted", message, num_requests, 0)


def steps_recover(max_step_tokens: int) -> EngineEvent:
    """Memory has sufficed for so long that larger steps are tried again."""
    message = f"steps may have {max_step_tokens:,} tokens again: memory has sufficed for a while"
    return EngineEvent("step_budget_raised", message, 0, 0)
