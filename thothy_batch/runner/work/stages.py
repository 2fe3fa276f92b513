"""What one stage of a kind hands on to the next."""

from thothy_batch.records import FailureCode, FinishReason, RequestFailure, RequestResult
from thothy_batch.runner.work.assignment import PendingRequest

# What the artifact is flagged with where an earlier stage ended so, if its kind looks at that.
_FLAGS = {FinishReason.LENGTH: "cut_off", FinishReason.REPETITION: "repetition"}


def pass_to_next_stage(work: PendingRequest, result: RequestResult) -> RequestFailure | None:
    """Puts the text of a stage where the next one's template reads it. A failure where there is
    none: nothing can come of that."""
    made = result.completions[0]
    if not made.text.strip():
        name = work.primary.job.kind.stages[work.stage].name
        said = f"stage {name!r} made no text for the next one to read"
        return RequestFailure(work.request.request_id, FailureCode.INVALID_OUTPUT, said)
    flag = _FLAGS.get(made.finish_reason)
    checks = work.primary.job.kind.checks
    work.stage += 1
    for entry in work.entries:
        if flag in checks and flag is not None and flag not in entry.flags:
            entry.flags = (*entry.flags, flag)
        entry.variables = {**entry.variables, "previous": made.text}
    return None
