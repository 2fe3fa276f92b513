"""Runs the requests of a benchmark to completion on an engine that is ready."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from thothy_batch.bench.machine import BusyMeter
from thothy_batch.bench.workload import Refusal
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.errors import EngineError, ThothyError
from thothy_batch.records import Request, RequestResult

Progress = Callable[[str], None]
_COLLECT_EVERY_S = 1.0


@dataclass(slots=True)
class Outcome:
    """Results and refusals of all requests."""

    results: dict[int, RequestResult] = field(default_factory=dict)  # by request_id
    refused: list[Refusal] = field(default_factory=list)
    engine_s: float = 0.0  # from the first submission to the last token
    busy_fraction: float | None = None

    @property
    def output_tokens(self) -> int:
        return sum(result.output_tokens for result in self.results.values())


def compute(engine: LLMEngine, requests: Sequence[Request], progress: Progress) -> Outcome:
    """Run all requests.

    Raises EngineError where the engine fails, and where a request did not end or has another
    number of tokens than its max_tokens: such figures are not comparable.
    """
    outcome = Outcome()
    names = {request.request_id: request.request_key for request in requests}
    progress(f"computing: {len(requests):,} requests")
    try:
        with BusyMeter(engine.config.device) as busy:
            _run(engine, requests, names, outcome, progress)
    except ThothyError:
        raise
    except Exception as error:
        raise EngineError(
            f"the engine failed after {len(outcome.results):,} of {len(requests):,} requests: "
            f"{type(error).__name__}: {error}",
            hint="run it again with THOTHY_DEBUG=1 for the whole trace",
        ) from error
    outcome.busy_fraction = busy.fraction
    _check(requests, outcome)
    return outcome


def _run(
    engine: LLMEngine,
    requests: Sequence[Request],
    names: dict[int, str],
    outcome: Outcome,
    progress: Progress,
) -> None:
    began = collected = time.monotonic()
    engine.submit(requests)
    while engine.has_work:
        engine.step()
        now = time.monotonic()
        if now - collected >= _COLLECT_EVERY_S:
            collected = now
            _collect(engine, names, outcome)
            progress(_progress_text(outcome, len(requests), now - began))
    outcome.engine_s = time.monotonic() - began
    _collect(engine, names, outcome)


def _collect(engine: LLMEngine, names: dict[int, str], outcome: Outcome) -> None:
    update = engine.pop_update()
    outcome.results |= {result.request_id: result for result in update.results}
    outcome.refused += [
        Refusal(names[failure.request_id], failure.message) for failure in update.failures
    ]


def _progress_text(outcome: Outcome, num_requests: int, seconds: float) -> str:
    return (
        f"computing: {len(outcome.results):,} of {num_requests:,} requests done, "
        f"{outcome.output_tokens / seconds:,.0f} of their tokens a second"
    )


def _check(requests: Sequence[Request], outcome: Outcome) -> None:
    num_ended = len(outcome.results) + len(outcome.refused)
    if num_ended != len(requests):
        raise EngineError(f"the engine ended {num_ended:,} of {len(requests):,} requests")
    for request in requests:
        result, wanted = outcome.results.get(request.request_id), request.sampling.max_tokens
        if result is not None and result.output_tokens != wanted:
            raise EngineError(
                f"{request.request_key}: the engine gave {result.output_tokens} tokens where "
                f"{wanted} were asked for"
            )
