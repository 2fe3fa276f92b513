"""The night's requests in their order, what each is expected to take, and how long all will."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.limits import Limits, blocks_needed, why_unfit
from thothy_batch.engine.cost.cost_model import ModelWork
from thothy_batch.engine.cost.known_speed import KnownSpeed
from thothy_batch.engine.simulation.prediction import Prediction, predict, request_costs
from thothy_batch.plan import (
    BlockHashes,
    OutputEstimates,
    RequestPlan,
    chain_prompts,
    plan_requests,
)
from thothy_batch.records import Request
from thothy_batch.runner.entries.job import Job
from thothy_batch.runner.work.assignment import PendingRequest


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`work`: in the order of submission, each request with its planned prefixes; what can never
    run is not among it."""

    work: list[PendingRequest]
    plan: RequestPlan
    prediction: Prediction | None  # None: nothing is known of the device's speed
    unfit: list[tuple[PendingRequest, str]]  # can never run in this pool, and why
    chains: BlockHashes  # of the planned prompts

    @property
    def shared_lens(self) -> list[int]:
        """Tokens at the beginning of each prompt that other prompts of `work` begin with, too."""
        paths = (self.plan.content[index] for index in self.plan.order)
        return [path[-1].end if path else 0 for path in paths]

    @property
    def promised_tokens(self) -> int | None:
        """Prompt tokens that will be computed, to the token; None where that cannot be known:
        what a later stage reads does not exist yet."""
        if any(len(each.primary.job.kind.stages) > 1 for each in self.work):
            return None
        return self.plan.computed_prompt_tokens


def output_estimates(history: Mapping[str, Sequence[int]], jobs: Sequence[Job]) -> OutputEstimates:
    """Estimates per job from the output tokens of its earlier artifacts.

    An artifact's tokens are the sum over its samples. Stages differ too much to be divided up: jobs
    with several go by max_tokens.
    """
    return OutputEstimates(
        {
            job.name: [-(-tokens // job.num_samples) for tokens in history[job.name]]
            for job in jobs
            if job.name in history and len(job.kind.stages) <= 1
        }
    )


def build_run_plan(
    work: Sequence[PendingRequest],
    policy: str,
    *,
    config: EngineConfig,
    estimates: OutputEstimates,
    model: ModelWork | None = None,
    known: KnownSpeed | None = None,
    time_left_s: float | None = None,
) -> RunPlan:
    """Plans all work of a night for an engine of these settings.

    Where the night is predicted to take longer than `time_left_s`, `auto` begins with what gives
    most artifacts.
    """
    limits = Limits.of(config)
    reasons = [why_unfit(each.request, limits) for each in work]
    usable = [each for each, why in zip(work, reasons, strict=True) if not why]
    unfit = [(each, why) for each, why in zip(work, reasons, strict=True) if why]
    requests = [_expecting(each, estimates) for each in usable]
    context = _Context(config, estimates, model, known)
    chains = chain_prompts([each.prompt_token_ids for each in requests], config.block_size)

    def planned(costs: Sequence[float] | None) -> RequestPlan:
        return plan_requests(
            requests,
            policy,
            block_size=config.block_size,
            sharing=config.prefix_sharing,
            expected=[request.expected_tokens or 1 for request in requests],
            pool_tokens=config.pool_tokens,
            costs=costs,
            time_left_s=time_left_s,
            chains=chains,
        )

    plan = planned(None)
    prediction = context.predict(usable, plan, requests)
    is_late = prediction and time_left_s is not None and prediction.seconds > time_left_s
    if prediction and is_late and policy == "auto":
        plan = planned(context.costs(usable, requests, prediction.seconds))
        prediction = context.predict(usable, plan, requests)
    for index, request in zip(plan.order, plan.apply(requests), strict=True):
        usable[index].request = request
    return RunPlan([usable[index] for index in plan.order], plan, prediction, unfit, chains)


def most_tokens(work: PendingRequest, limits: Limits) -> int:
    """KV that a request may come to hold, in tokens of whole blocks, all its samples together.

    The prompt of a later stage is not known yet: it may fill the context.
    """
    block_size, entry = limits.layout.block_size, work.primary
    if len(entry.job.kind.stages) > 1:
        return entry.num_samples * (limits.max_model_len + block_size)
    return blocks_needed(work.request, limits) * block_size


def _expecting(work: PendingRequest, estimates: OutputEstimates) -> Request:
    """The request with the output length that admission makes room for."""
    job, request = work.primary.job.name, work.request
    expected = estimates.expected(job, request.sampling)
    return replace(request, expected_tokens=expected, prefixes=None)


@dataclass(frozen=True, slots=True)
class _Context:
    config: EngineConfig
    estimates: OutputEstimates
    model: ModelWork | None
    known: KnownSpeed | None

    def predict(
        self, work: Sequence[PendingRequest], plan: RequestPlan, requests: Sequence[Request]
    ) -> Prediction | None:
        """The planned night on the simulated device, later stages among it."""
        if self.model is None or self.known is None:
            return None
        lengths, jobs = self._lengths(work), {}
        night: list[Request] = []
        next_id = max((request.request_id for request in requests), default=0)
        for index, request in zip(plan.order, plan.apply(requests), strict=True):
            job = jobs[request.request_id] = work[index].primary.job
            night.append(request)
            for stage in range(1, len(job.kind.stages)):
                next_id += 1
                later = self._later(request, work[index], stage, next_id)
                if not why_unfit(later, Limits.of(self.config)):
                    jobs[next_id], lengths[next_id] = job, lengths[request.request_id]
                    night.append(later)
        names = {number: job.name for number, job in jobs.items()}
        return predict(self.config, self.model, self.known, night, output_lens=lengths, jobs=names)

    def costs(
        self, work: Sequence[PendingRequest], requests: Sequence[Request], seconds: float
    ) -> list[float]:
        """Seconds of each request, which add up to what the whole night takes."""
        assert self.model is not None
        assert self.known is not None
        costs = request_costs(self.model, self.known.speed, requests, self._lengths(work))
        total = sum(costs) or 1.0
        return [cost * seconds / total for cost in costs]

    def _lengths(self, work: Sequence[PendingRequest]) -> dict[int, int]:
        return {
            each.request.request_id: self.estimates.typical(
                each.primary.job.name, each.request.sampling
            )
            for each in work
        }

    def _later(
        self, request: Request, work: PendingRequest, stage: int, request_id: int
    ) -> Request:
        """A later stage, of which only this is known: it reads what the first one read and made."""
        length = len(request.prompt_token_ids) + request.sampling.max_tokens
        return replace(
            request,
            request_id=request_id,
            prompt_token_ids=range(length),
            num_samples=work.primary.samples_of_stage(stage),
            prefixes=(),
        )
