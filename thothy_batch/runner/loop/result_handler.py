"""Handles the engine's results and failures: checks, retries, next stages, and job stops."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from thothy_batch.kinds import evaluate
from thothy_batch.model.tokenizer import ReasoningSplitter
from thothy_batch.plan import OutputEstimates
from thothy_batch.records import Completion, Request, RequestFailure, RequestResult
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.prepare import draft_of
from thothy_batch.runner.entries.rendering import Render
from thothy_batch.runner.loop.engine_feed import EngineFeed
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.monitoring.progress import Forecast
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.runner.work.retry_policy import Attempt, RetryPolicy
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt
from thothy_batch.runner.work.stages import pass_to_next_stage


@dataclass(slots=True)
class ResultHandler:
    """Turns each result into an artifact, a failure, another attempt or the next stage."""

    writer: ResultWriter
    feed: EngineFeed
    forecast: Forecast
    estimates: OutputEstimates
    retry_policy: RetryPolicy
    render: Render
    reasoning: ReasoningSplitter | None  # None: a model without a tokenizer makes no text
    roofline_receipt: RooflineReceipt
    event_log: EventLog
    note: Callable[[str], None]
    repeated_prompt_tokens: int = 0  # computed again for further attempts

    def handle_result(self, result: RequestResult, *, may_retry: bool) -> None:
        """Handle a completed request. `may_retry` False: the run is stopping."""
        pending = self.feed.complete(result.request_id)
        pending.cost.add(result)
        completions = self._without_reasoning(pending, result)
        self.writer.metrics.observe_queue_delay(result.queue_s)
        primary = pending.primary
        if len(primary.job.kind.stages) <= 1 and not pending.num_attempts:
            for completion in result.completions:
                self.estimates.observe(primary.job.name, len(completion.token_ids))
        if pending.stage + 1 < len(primary.job.kind.stages):
            self.roofline_receipt.add(pending.request.prompt_token_ids, result)
            self._start_next_stage(pending, result, completions[0])
            return
        self.forecast.finish(pending.request, result.output_tokens)
        attempt = _evaluate(pending, result, completions)
        pending.add_attempt(attempt)
        if pending.num_attempts == 1:
            self.writer.count_first(pending)
        else:
            self.repeated_prompt_tokens += result.prompt_tokens - result.cached_prompt_tokens
        request = self.retry_policy.next_request(
            attempt,
            primary.sampling.seed,
            num_attempts=pending.num_attempts,
            retry_temperature=primary.job.kind.retry_temperature,
        )
        if request is not None and may_retry:
            self._retry(pending, request)
        elif request is None or not pending.is_rejected:
            self.finalize(pending)
        # A rejected one that may not be retried now stays open: the next run tries it again.
        self._stop_failing_job(primary)

    def handle_failure(self, failure: RequestFailure) -> None:
        """Handle a request that the engine could not compute."""
        self._fail(self.feed.in_engine.pop(failure.request_id), failure)

    def finalize(self, pending: PendingRequest) -> None:
        """Store the best attempt of a request and free its inputs."""
        assert pending.best is not None
        self.roofline_receipt.add(pending.request.prompt_token_ids, pending.best.result)
        self.writer.write_result(pending)
        pending.best = None
        pending.release_inputs()

    def _retry(self, pending: PendingRequest, request: Request) -> None:
        """Queue another attempt behind all other requests. Nothing is stored yet: after a kill both
        attempts are computed again, and the result is that of an undisturbed run."""
        pending.attempt += 1
        pending.request = request
        self.forecast.add(request)
        self.feed.pending.append(pending)

    def _without_reasoning(
        self, pending: PendingRequest, result: RequestResult
    ) -> tuple[Completion, ...]:
        """Return the completions with their reasoning apart; those of kind raw as they are."""
        if self.reasoning is None or pending.primary.job.kind.raw:
            return result.completions
        prompt = pending.request.prompt_token_ids
        return tuple(self.reasoning.split(each, prompt) for each in result.completions)

    def _start_next_stage(
        self, pending: PendingRequest, result: RequestResult, completion: Completion
    ) -> None:
        """Queue the request of the following stage ahead of all requests that have not started."""
        entry = pending.primary
        if failure := pass_to_next_stage(pending, completion):
            self._fail(pending, failure)
            return
        (rendered,) = self.render([draft_of(entry, pending.stage)])
        if rendered.code is not None:
            request_id = pending.request.request_id
            self._fail(pending, RequestFailure(request_id, rendered.code, rendered.message))
            return
        for each in pending.entries:
            each.flags = rendered.flags
        self.forecast.finish(pending.request, result.output_tokens)
        pending.request = replace(
            pending.request,
            prompt_token_ids=rendered.prompt_token_ids,
            num_samples=entry.samples_of_stage(pending.stage),
            prefixes=None,  # those of the first stage's prompt
        )
        self.forecast.add(pending.request)
        self.feed.pending.appendleft(pending)

    def _fail(self, pending: PendingRequest, failure: RequestFailure) -> None:
        self.forecast.drop(pending.request)
        if pending.best is not None:  # an earlier attempt completed
            self.finalize(pending)
            return
        self.writer.write_failure(pending, failure)
        pending.release_inputs()
        self._stop_failing_job(pending.primary)

    def _stop_failing_job(self, entry: Entry) -> None:
        """Stop the entry's job where too many of its completions were rejected."""
        count = self.writer.counts.job_of(entry)
        if count.stopped or not count.too_many_failed:
            return
        count.stopped = True
        message = (
            f"job {count.name!r} stopped: {count.num_rejected} of {count.num_completed} "
            f"completions failed their checks (max_failed_pct {count.max_failed_pct:g}); "
            "the other jobs go on"
        )
        self.event_log.write("job_stopped", job=count.name, message=message)
        self.note(message)


def _evaluate(
    pending: PendingRequest, result: RequestResult, completions: tuple[Completion, ...]
) -> Attempt:
    """Parse and check the completions of a request's last stage."""
    primary = pending.primary
    output = evaluate(
        primary.job.kind,
        completions,
        prompt_token_ids=pending.request.prompt_token_ids,
        variables=primary.variables,
        ignore_eos=primary.sampling.ignore_eos,
    )
    reasoning = tuple(completion.reasoning for completion in completions)
    return Attempt(pending.request, pending.attempt, result, output, reasoning)
