"""The ordered requests of a run, their expected lengths, and the predicted time of all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from thothy_batch.engine.core import EngineConfig, Limits, blocks_needed, why_unfit
from thothy_batch.engine.cost import KnownSpeed, ModelWork
from thothy_batch.engine.simulation import Prediction, predict, request_costs
from thothy_batch.plan import (
    BlockHashes,
    OutputEstimates,
    RequestPlan,
    chain_prompts,
    plan_requests,
)
from thothy_batch.records import Request
from thothy_batch.runner.entries.job import Job
from thothy_batch.runner.work.pending_request import PendingRequest


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`pending`: in the order of submission, each request with its planned prefixes. Requests that
    can never run are in `unfit` only."""

    pending: list[PendingRequest]
    plan: RequestPlan
    prediction: Prediction | None  # None: the device's speed is not known
    unfit: list[tuple[PendingRequest, str]]  # too large for this pool, and why
    block_hashes: BlockHashes  # of the planned prompts

    @property
    def shared_lens(self) -> list[int]:
        """Tokens of each prompt of `pending` that are a prefix of another prompt too."""
        paths = (self.plan.content[index] for index in self.plan.order)
        return [path[-1].end if path else 0 for path in paths]

    @property
    def planned_prompt_tokens(self) -> int | None:
        """Prompt tokens that will be computed, to the token. None for runs with later stages,
        whose prompts do not exist yet."""
        if any(len(each.primary.job.kind.stages) > 1 for each in self.pending):
            return None
        return self.plan.computed_prompt_tokens


def output_estimates(history: Mapping[str, Sequence[int]], jobs: Sequence[Job]) -> OutputEstimates:
    """Estimates per job from the output tokens of its earlier artifacts.

    An artifact's tokens are the sum over its samples. Jobs with several stages go by max_tokens:
    their stages differ too much for the sum to be divided.
    """
    return OutputEstimates(
        {
            job.name: [-(-tokens // job.num_samples) for tokens in history[job.name]]
            for job in jobs
            if job.name in history and len(job.kind.stages) <= 1
        }
    )


def build_run_plan(
    pending: Sequence[PendingRequest],
    policy: str,
    *,
    config: EngineConfig,
    estimates: OutputEstimates,
    model: ModelWork | None = None,
    known_speed: KnownSpeed | None = None,
    time_left_s: float | None = None,
    phase: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """Plan all requests for an engine with these settings.

    Where the predicted time exceeds `time_left_s`, `auto` starts with the requests that give the
    most artifacts. `phase` is told how far the plan is.
    """
    phase(f"planning: comparing {len(pending):,} prompts")
    limits = Limits.of(config)
    reasons = [why_unfit(each.request, limits) for each in pending]
    usable = [each for each, why in zip(pending, reasons, strict=True) if not why]
    unfit = [(each, why) for each, why in zip(pending, reasons, strict=True) if why]
    requests = [_with_expected_length(each, estimates) for each in usable]
    predictor = _Predictor(config, estimates, model, known_speed)
    block_hashes = chain_prompts([each.prompt_token_ids for each in requests], config.block_size)

    def planned(costs: Sequence[float] | None) -> RequestPlan:
        phase(f"planning: ordering {len(requests):,} requests")
        return plan_requests(
            requests,
            policy,
            block_size=config.block_size,
            sharing=config.prefix_sharing,
            expected=[request.expected_tokens or 1 for request in requests],
            pool_tokens=config.pool_tokens,
            costs=costs,
            time_left_s=time_left_s,
            chains=block_hashes,
        )

    def predicted(plan: RequestPlan) -> Prediction | None:
        phase(f"planning: predicting the time of {len(requests):,} requests")
        return predictor.predict(usable, plan, requests)

    plan = planned(None)
    prediction = predicted(plan)
    is_late = prediction and time_left_s is not None and prediction.seconds > time_left_s
    if prediction and is_late and policy == "auto":
        plan = planned(predictor.costs(usable, requests, prediction.seconds))
        prediction = predicted(plan)
    for index, request in zip(plan.order, plan.apply(requests), strict=True):
        usable[index].request = request
    return RunPlan([usable[index] for index in plan.order], plan, prediction, unfit, block_hashes)


def most_tokens(pending: PendingRequest, limits: Limits) -> int:
    """The most KV that a request may hold, in tokens of whole blocks, all its samples together.

    The prompt of a later stage is not known yet: it may fill the context.
    """
    block_size, entry = limits.layout.block_size, pending.primary
    if len(entry.job.kind.stages) > 1:
        return entry.num_samples * (limits.max_model_len + block_size)
    return blocks_needed(pending.request, limits) * block_size


def _with_expected_length(pending: PendingRequest, estimates: OutputEstimates) -> Request:
    """The request with the output length that admission reserves blocks for."""
    job, request = pending.primary.job.name, pending.request
    expected = estimates.expected(job, request.sampling)
    return replace(request, expected_tokens=expected, prefixes=None)


@dataclass(frozen=True, slots=True)
class _Predictor:
    """Predicts a plan's time on the simulated device."""

    config: EngineConfig
    estimates: OutputEstimates
    model: ModelWork | None
    known_speed: KnownSpeed | None

    def predict(
        self, pending: Sequence[PendingRequest], plan: RequestPlan, requests: Sequence[Request]
    ) -> Prediction | None:
        """The planned run on the simulated device, later stages included."""
        if self.model is None or self.known_speed is None:
            return None
        lengths, jobs = self._lengths(pending), {}
        simulated: list[Request] = []
        next_id = max((request.request_id for request in requests), default=0)
        for index, request in zip(plan.order, plan.apply(requests), strict=True):
            job = jobs[request.request_id] = pending[index].primary.job
            simulated.append(request)
            for stage in range(1, len(job.kind.stages)):
                next_id += 1
                later = _later_stage(request, pending[index], stage, next_id)
                if not why_unfit(later, Limits.of(self.config)):
                    jobs[next_id], lengths[next_id] = job, lengths[request.request_id]
                    simulated.append(later)
        names = {number: job.name for number, job in jobs.items()}
        return predict(
            self.config, self.model, self.known_speed, simulated, output_lens=lengths, jobs=names
        )

    def costs(
        self, pending: Sequence[PendingRequest], requests: Sequence[Request], seconds: float
    ) -> list[float]:
        """Seconds of each request, scaled to add up to `seconds`, the time of the whole run."""
        assert self.model is not None
        assert self.known_speed is not None
        costs = request_costs(self.model, self.known_speed.speed, requests, self._lengths(pending))
        total = sum(costs) or 1.0
        return [cost * seconds / total for cost in costs]

    def _lengths(self, pending: Sequence[PendingRequest]) -> dict[int, int]:
        return {
            each.request.request_id: self.estimates.typical(
                each.primary.job.name, each.request.sampling
            )
            for each in pending
        }


def _later_stage(request: Request, pending: PendingRequest, stage: int, request_id: int) -> Request:
    """A stand-in for a later stage, whose prompt holds the first one's prompt and output."""
    length = len(request.prompt_token_ids) + request.sampling.max_tokens
    return replace(
        request,
        request_id=request_id,
        prompt_token_ids=range(length),
        num_samples=pending.primary.samples_of_stage(stage),
        prefixes=(),
    )
