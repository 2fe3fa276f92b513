"""Thousands of random nights, planned and run on the simulated device with all books checked."""

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.cost_model import CostModel, GroupWork, ModelWork, Speed
from thothy_batch.engine.fit import Limits, blocks_needed
from thothy_batch.engine.layout import KVLayout
from thothy_batch.engine.sequence import Sequence
from thothy_batch.engine.simulation import Simulation
from thothy_batch.plan import POLICIES, RequestPlan, plan_requests
from thothy_batch.records import LayerGroup, Request, Sampling

UNIFORM = (LayerGroup((0, 1)),)
WINDOWED = (LayerGroup((0,)), LayerGroup((1, 2, 3), 9))
CHUNKS = 30
NIGHTS = 20  # per chunk; six times as many in the slow test


@dataclass
class Night:
    """What was drawn. `is_exact`: every output is as long as was expected."""

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


def prompts_of(random: Random, num: int) -> list[list[int]]:
    """Prompts that part from each other at any depth, some of them equal."""
    known = [[random.randrange(4) for _ in range(random.randint(1, 50))]]
    while len(known) < num:
        parent = random.choice(known)
        kept = parent[: random.randint(0, len(parent))]
        known.append(kept + [random.randrange(4) for _ in range(random.randint(1, 30))])
    random.shuffle(known)
    return known


def draw(random: Random, config_of: Any) -> Night:
    is_exact = random.random() < 0.6
    requests, outputs = [], {}
    for number, prompt in enumerate(prompts_of(random, random.randint(1, 40))):
        max_tokens, samples = random.randint(1, 20), random.choice([1, 1, 1, 2, 4])
        for sample in range(samples):
            outputs[number, sample] = max_tokens if is_exact else random.randint(1, max_tokens)
        requests.append(
            Request(
                number,
                "",
                prompt,
                Sampling(max_tokens=max_tokens, ignore_eos=is_exact),
                num_samples=samples,
                priority=random.choice([5, 5, 5, 0, 7, 9]),
                expected_tokens=None if is_exact else random.randint(1, max_tokens),
            )
        )
    settings: dict[str, Any] = {
        "layout": KVLayout(random.choice([UNIFORM, UNIFORM, WINDOWED]), random.randint(1, 9)),
        "max_seqs": random.randint(1, 24),
        "max_step_tokens": random.randint(2, 70),
        "admission": "reserve" if is_exact else random.choice(["reserve", "optimistic"]),
        "prefix_sharing": random.random() < 0.9,
    }
    limits = Limits.of(config_of(**settings, num_blocks=1))
    smallest = max(blocks_needed(request, limits) for request in requests)
    room = random.choice([0, 1, 7, 40, 300])
    is_short_of_time = random.random() < 0.3
    return Night(
        requests,
        outputs,
        random.choice(POLICIES),
        config_of(**settings, num_blocks=smallest + room),
        costs=[random.uniform(0.1, 5) for _ in requests] if is_short_of_time else None,
        time_left_s=random.uniform(0, 20) if is_short_of_time else None,
        is_exact=is_exact,
    )


def run(night: Night, plan: RequestPlan) -> tuple[Simulation, dict[tuple[int, int], Sequence]]:
    config = night.config
    groups = tuple(GroupWork(len(g.layers), g.window, 64) for g in config.layout.groups)
    work = ModelWork(10_000, 1_000, 4, 2, 8, groups)
    simulation = Simulation(
        config,
        CostModel(work, Speed.from_roofline(1e8, 1e8, work)),
        output_len=lambda request, sample: night.outputs[request.request_id, sample],
        check=True,
    )
    ended: dict[tuple[int, int], Sequence] = {}

    def finished(seq: Sequence, seconds: float) -> None:
        key = seq.state.request.request_id, seq.sample
        assert key not in ended, "a sample ended twice"
        ended[key] = seq

    simulation.finished_s = finished
    simulation.run(plan.apply(night.requests))
    return simulation, ended


def check(night: Night) -> bool:
    """Every property of a night; whether a promise was made and kept."""
    plan = night.plan()
    assert sorted(plan.order) == list(range(len(night.requests)))
    simulation, ended = run(night, plan)
    result = simulation.result
    assert {key: seq.num_output for key, seq in ended.items()} == night.outputs
    # Nobody is overtaken: in the order of the plan, everybody begins no earlier than who is before.
    starts = [ended[night.requests[i].request_id, 0].state.started_at for i in plan.order]
    assert starts == sorted(starts, key=lambda at: at or 0.0)
    assert result.prefill_tokens + result.cached_prompt_tokens == plan.prompt_tokens
    assert result.prefill_tokens >= plan.unique_prompt_tokens or plan.computed_prompt_tokens is None
    if night.is_exact:
        assert result.num_preempted == result.wasted_tokens == 0
    is_uniform = len(night.config.layout.groups) == 1
    promised = plan.computed_prompt_tokens
    if promised is None or not night.is_exact or not is_uniform:
        return False
    assert result.prefill_tokens == promised
    return True


def check_nights(seed: int, num: int, config_of: Any) -> None:
    kept = 0
    for number in range(num):
        night = draw(Random(f"{seed} {number}"), config_of)
        try:
            kept += check(night)
        except AssertionError as error:
            raise AssertionError(f"night {number} of seed {seed}: {error}") from error
    assert kept or num < 50, "no night of these tested the promise"


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_a_random_night_keeps_its_promises(seed: int, config_of: Any) -> None:
    check_nights(seed, NIGHTS, config_of)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 100 + CHUNKS))
def test_thousands_of_random_nights_keep_their_promises(seed: int, config_of: Any) -> None:
    check_nights(seed, 6 * NIGHTS, config_of)
