"""Passes the text of one stage of a kind to the next."""

from thothy_batch.records import FailureCode, FinishReason, RequestFailure, RequestResult
from thothy_batch.runner.work.pending_request import PendingRequest

# Flags of the artifact where an earlier stage ended so, if its kind checks for them.
_FLAGS = {FinishReason.LENGTH: "cut_off", FinishReason.REPETITION: "repetition"}


def pass_to_next_stage(pending: PendingRequest, result: RequestResult) -> RequestFailure | None:
    """Put a stage's text where the next stage's template reads it, and advance the stage.

    Returns a failure where the stage made no text.
    """
    completion = result.completions[0]
    kind = pending.primary.job.kind
    if not completion.text.strip():
        message = f"stage {kind.stages[pending.stage].name!r} made no text for the next one to read"
        return RequestFailure(pending.request.request_id, FailureCode.INVALID_OUTPUT, message)
    flag = _FLAGS.get(completion.finish_reason)
    pending.stage += 1
    for entry in pending.entries:
        if flag is not None and flag in kind.checks and flag not in entry.flags:
            entry.flags = (*entry.flags, flag)
        entry.variables = {**entry.variables, "previous": completion.text}
    return None
