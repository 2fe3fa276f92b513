"""Thousands of random runs match their plans, with all bookkeeping checked.

Most are simulated; some run on the engine, with a model whose next token reveals a wrong block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.limits import Limits, blocks_needed
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.simulation.simulator import Simulated, Simulator
from thothy_batch.plan import POLICIES, RequestPlan, plan_requests
from thothy_batch.records import LayerGroup, Request, Sampling, SharedPrefix

UNIFORM = (LayerGroup((0, 1)),)
WINDOWED = (LayerGroup((0,)), LayerGroup((1, 2, 3), 9))
BLOCK_SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 32)
CHUNKS = 30
RUNS = 20  # per chunk; six times as many in the slow test


@dataclass
class RandomRun:
    """A random run. `is_exact`: every output has its expected length."""

    requests: list[Request]
    outputs: dict[tuple[int, int], int]
    policy: str
    config: EngineConfig
    costs: list[float] | None
    time_left_s: float | None
    is_exact: bool

    def plan(self) -> RequestPlan:
        config = self.config
        return plan_requests(
            self.requests,
            self.policy,
            block_size=config.block_size,
            sharing=config.prefix_sharing,
            expected=[r.expected_tokens or r.sampling.max_tokens for r in self.requests],
            pool_tokens=config.pool_tokens,
            costs=self.costs,
            time_left_s=self.time_left_s,
        )


def draw_prompts(random: Random, num: int) -> list[list[int]]:
    """Draw prompts with common prefixes of any length, some of them equal."""
    known = [[random.randrange(4) for _ in range(random.randint(1, 50))]]
    while len(known) < num:
        parent = random.choice(known)
        kept = parent[: random.randint(0, len(parent))]
        rest = [random.randrange(4) for _ in range(random.randint(1, 30))]
        known.append(list(parent) if random.random() < 0.1 else kept + rest)
    random.shuffle(known)
    return known


def draw_requests(random: Random, *, is_exact: bool) -> list[Request]:
    priorities = random.choice([[5], [5, 5, 5, 0, 7, 9], range(10)])
    requests = []
    for number, prompt in enumerate(draw_prompts(random, random.randint(1, 60))):
        max_tokens = random.randint(1, 20)
        requests.append(
            Request(
                number,
                "",
                prompt,
                Sampling(max_tokens=max_tokens, ignore_eos=is_exact, repetition_stop=False),
                seed=random.randint(0, 2),
                num_samples=random.choice([1, 1, 1, 2, 3, 4]),
                priority=random.choice(priorities),
                expected_tokens=None if is_exact else random.randint(1, max_tokens),
            )
        )
    return requests


def draw(random: Random, config_of: Any) -> RandomRun:
    """Draw a run; its pool fits the largest request, or up to all of them."""
    is_exact = random.random() < 0.6
    requests = draw_requests(random, is_exact=is_exact)
    samples = [(request, sample) for request in requests for sample in range(request.num_samples)]
    lengths = {(r.request_id, sample): r.sampling.max_tokens for r, sample in samples}
    max_seqs = random.randint(1, 24)
    groups = random.choice([UNIFORM, UNIFORM, WINDOWED])
    config = config_of(
        layout=KVLayout(groups, random.choice(BLOCK_SIZES)),
        max_seqs=max_seqs,
        max_step_tokens=random.randint(max(max_seqs, 4), 70),  # samples start in the same step
        max_model_len=4096,
        admission="reserve" if is_exact else random.choice(["reserve", "optimistic"]),
        prefix_sharing=random.random() < 0.9,
        num_blocks=1,
    )
    smallest = max(blocks_needed(request, Limits.of(config)) for request in requests)
    room = random.choice([0, 0, 1, 3, 7, 40, 300])
    has_deadline = random.random() < 0.3
    return RandomRun(
        requests,
        lengths if is_exact else {key: random.randint(1, n) for key, n in lengths.items()},
        random.choice(POLICIES),
        replace(config, num_blocks=smallest + room),
        costs=[random.uniform(0.1, 5) for _ in requests] if has_deadline else None,
        time_left_s=random.uniform(0, 20) if has_deadline else None,
        is_exact=is_exact,
    )


def unique_tokens(run: RandomRun) -> int:
    """Count the prompt tokens with every shared block computed once, the slow way.

    The last token of a prompt is always computed.
    """
    block_size, prompts = run.config.block_size, [r.prompt_token_ids for r in run.requests]
    heads = [tuple(p[:end]) for p in prompts for end in range(block_size, len(p), block_size)]
    return sum(map(len, prompts)) - (len(heads) - len(set(heads))) * block_size


def is_ample(run: RandomRun, plan: RequestPlan) -> bool:
    """Return whether each request fits the pool together with the prefixes it pins.

    Through a window it pins the end of each prefix. Full layers keep everything anyway.
    """
    if len(run.config.layout.groups) == 1:
        return True
    pairs = zip(run.requests, plan.prefixes, strict=True)
    # One page more: pinned blocks may be scattered and leave a page partly used.
    return run.config.num_pages > max(_pages(run.config, r, path or ()) for r, path in pairs)


def _pages(config: EngineConfig, request: Request, path: tuple[SharedPrefix, ...]) -> int:
    layout, prompt_len = config.layout, len(request.prompt_token_ids)
    length = prompt_len + request.sampling.max_tokens
    step = min(length, config.max_step_tokens)
    needs = list(layout.needs(prompt_len, length, length, request.num_samples, step))
    for g, group in enumerate(layout.groups):
        if group.window is not None:
            most = layout.window_blocks(group.window)
            needs[g] += sum(min(most, prefix.end // layout.block_size) for prefix in path)
    return layout.pages_for(tuple(needs))


def simulate(
    run: RandomRun, plan: RequestPlan
) -> tuple[Simulated, dict[tuple[int, int], Sequence]]:
    groups = tuple(GroupWork(len(g.layers), g.window, 64) for g in run.config.layout.groups)
    work = ModelWork(10_000, 1_000, 4, 2, 8, groups)
    sequences: list[Sequence] = []
    simulator = Simulator(
        run.config,
        CostModel(work, StepSpeed.from_roofline(1e8, 1e8, work)),
        output_len=lambda request, sample: run.outputs[request.request_id, sample],
        on_finished=lambda seq, seconds: sequences.append(seq),
        check=True,
    )
    simulator.run(plan.apply(run.requests))
    ended = {(seq.state.request.request_id, seq.sample): seq for seq in sequences}
    assert len(ended) == len(sequences), "a sample ended twice"
    assert simulator._scheduler.blocks_used == 0, "a block leaked"
    return simulator.result, ended


def check_plan(run: RandomRun, plan: RequestPlan) -> None:
    assert sorted(plan.order) == list(range(len(run.requests)))
    assert plan.unique_prompt_tokens == unique_tokens(run)
    promised = plan.computed_prompt_tokens
    assert promised is None or plan.unique_prompt_tokens <= promised <= plan.prompt_tokens
    is_one_line = len({request.priority for request in run.requests}) == 1
    if is_one_line and run.config.prefix_sharing and run.policy in ("auto", "prefix"):
        assert promised == plan.unique_prompt_tokens, "a shared block is computed twice"


def check(run: RandomRun) -> bool:
    """Check every property of a run; returns whether its plan made a promise."""
    plan = run.plan()
    check_plan(run, plan)
    result, ended = simulate(run, plan)
    assert {key: seq.num_output for key, seq in ended.items()} == run.outputs
    # In plan order no request starts before the one ahead of it.
    starts = [ended[run.requests[i].request_id, 0].state.started_at for i in plan.order]
    assert starts == sorted(starts, key=lambda at: at or 0.0)
    assert result.prefill_tokens + result.cached_prompt_tokens == plan.prompt_tokens
    if run.is_exact:
        assert result.num_preempted == result.wasted_tokens == 0
    promised = plan.computed_prompt_tokens
    if promised is None or result.num_preempted:
        # A preempted request is looked up by content and may find more or less than planned.
        return False
    is_kept = result.prefill_tokens == promised
    if not is_ample(run, plan):
        # A request without room for the prefixes it would pin skips them.
        assert is_kept != any(seq.state.skips_prefixes for seq in ended.values())
        assert result.prefill_tokens >= promised
        return False
    assert is_kept, f"{result.prefill_tokens} tokens computed, {promised} promised"
    return True


def check_runs(seed: int, num: int, check_one: Callable[[RandomRun], bool], config_of: Any) -> None:
    kept = 0
    for number in range(num):
        run = draw(Random(f"{seed} {number}"), config_of)
        try:
            kept += check_one(run)
        except AssertionError as error:
            raise AssertionError(f"run {number} of seed {seed}: {error}") from error
    assert kept >= num // 8, "too few runs tested the promise"


@pytest.mark.few(3)
@pytest.mark.parametrize("seed", range(CHUNKS))
def test_a_random_run_keeps_its_promises(seed: int, config_of: Any) -> None:
    check_runs(seed, RUNS, check, config_of)


@pytest.mark.rest
@pytest.mark.parametrize("seed", range(100, 100 + CHUNKS))
def test_thousands_of_random_runs_keep_their_promises(seed: int, config_of: Any) -> None:
    check_runs(seed, 6 * RUNS, check, config_of)


def check_engine(run: RandomRun, engine: LLMEngine, expected: Any, finish: Any) -> None:
    plan = run.plan()
    engine.submit(plan.apply(run.requests))
    results = finish(engine)
    assert len(results) == len(run.requests)
    for request in run.requests:
        got = [completion.token_ids for completion in results[request.request_id].completions]
        assert got == expected(request)
    assert engine.pop_update().blocks_used == 0, "a block leaked"
    totals, promised = engine.totals, plan.computed_prompt_tokens
    assert not totals.num_preempted or not run.is_exact
    if promised is not None and not totals.num_preempted and is_ample(run, plan):
        assert totals.prefill_tokens == promised
    if promised is not None and run.is_exact:
        done = simulate(run, plan)[0]
        assert (totals.prefill_tokens, totals.num_steps) == (done.prefill_tokens, done.num_steps)


@pytest.mark.few(2)
@pytest.mark.parametrize("seed", range(200, 216))
@pytest.mark.parametrize("policy", POLICIES)
def test_the_engine_keeps_the_promise_and_every_policy_gives_the_same_tokens(
    seed: int, policy: str, config_of: Any, shadow_engine: Any, expected: Any, finish: Any
) -> None:
    run = replace(draw(Random(f"{seed}"), config_of), policy=policy)
    settings = {name: getattr(run.config, name) for name in EngineConfig.__slots__}
    check_engine(run, shadow_engine(**settings)[0], expected, finish)
