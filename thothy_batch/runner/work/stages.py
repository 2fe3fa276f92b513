"""Passes the text of one stage of a kind to the next."""

from thothy_batch.records import Completion, FailureCode, FinishReason, RequestFailure
from thothy_batch.runner.work.pending_request import PendingRequest

# Flags of the artifact where an earlier stage ended so, if its kind checks for them.
_FLAGS = {FinishReason.LENGTH: "cut_off", FinishReason.REPETITION: "repetition"}


def pass_to_next_stage(pending: PendingRequest, completion: Completion) -> RequestFailure | None:
    """Put a stage's text where the next stage's template reads it, and advance the stage.

    Its reasoning stays with the request. Returns a failure where the stage made no text.
    """
    kind = pending.primary.job.kind
    if not completion.text.strip():
        message = f"stage {kind.stages[pending.stage].name!r} {_why_no_text(pending, completion)}"
        return RequestFailure(pending.request.request_id, FailureCode.INVALID_OUTPUT, message)
    flag = _FLAGS.get(completion.finish_reason)
    pending.stage += 1
    pending.reasoning.append(completion.reasoning)
    for entry in pending.entries:
        if flag is not None and flag in kind.checks and flag not in entry.flags:
            entry.flags = (*entry.flags, flag)
        entry.variables = {**entry.variables, "previous": completion.text}
    return None


def _why_no_text(pending: PendingRequest, completion: Completion) -> str:
    if not completion.ends_in_reasoning:
        return "made no text for the next one to read"
    if completion.finish_reason is not FinishReason.LENGTH:
        return "ended inside its reasoning and made no text for the next one to read"
    max_tokens = pending.request.sampling.max_tokens
    return f"was cut off inside its reasoning at max_tokens {max_tokens}: raise max_tokens"
