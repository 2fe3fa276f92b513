"""The simulated device runs the real scheduler: the promises of a plan hold there as well."""

import gc
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import uniform_layout

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.simulation.simulator import Simulator
from thothy_batch.plan import plan_requests
from thothy_batch.records import Request, Sampling

FIXED = HealthCheck.function_scoped_fixture  # the fixtures are plain functions
WORK = ModelWork(1000, 100, 4, 2, 8, (GroupWork(1, None, 64),))
COST = CostModel(WORK, StepSpeed.from_roofline(1e9, 1e9, WORK))
POLICIES = ("auto", "fifo", "length", "prefix")


def random_requests(random: Random, block_size: int, **more: Any) -> list[Request]:
    """Documents that several requests read, at several priorities."""
    head = [random.randint(1, 9) for _ in range(2 * block_size)]
    requests: list[Request] = []
    for _ in range(random.randint(1, 6)):
        size = random.randint(1, 4 * block_size)
        document = head + [random.randint(1, 9) for _ in range(size)]
        for _ in range(random.randint(1, 10)):
            prompt = document + [random.randint(1, 3) for _ in range(random.randint(0, 3))]
            sampling = Sampling(max_tokens=random.randint(1, 20), **more)
            requests.append(
                Request(
                    len(requests),
                    "",
                    prompt,
                    sampling,
                    num_samples=random.choice([1, 1, 3]),
                    priority=random.choice([5, 5, 9]),
                )
            )
    return random.sample(requests, len(requests))


def smallest(requests: list[Request], block_size: int) -> int:
    layout = uniform_layout(block_size)
    return max(
        layout.smallest_pool(len(r.prompt_token_ids), r.sampling.max_tokens, r.num_samples, 1)
        for r in requests
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[FIXED])
@given(
    policy=st.sampled_from(POLICIES),
    sharing=st.booleans(),
    room=st.sampled_from([0, 5, 40, 200, 2000]),
    seed=st.integers(0, 2**32),
)
def test_planned_requests_compute_the_prompt_tokens_that_were_promised(
    policy: str, sharing: bool, room: int, seed: int, config_of: Any
) -> None:
    requests = random_requests(Random(seed), 4, ignore_eos=True)
    config = config_of(
        block_size=4, num_blocks=smallest(requests, 4) + room, prefix_sharing=sharing
    )
    plan = plan_requests(
        requests, policy, block_size=4, sharing=sharing, pool_tokens=config.pool_tokens
    )
    result = Simulator(config, COST, check=True).run(plan.apply(requests))
    assert result.num_requests == len(requests)
    assert not result.num_preempted
    assert not result.wasted_tokens
    total = sum(len(r.prompt_token_ids) for r in requests)
    assert result.prefill_tokens + result.cached_prompt_tokens == total
    if plan.computed_prompt_tokens is not None:
        assert result.prefill_tokens == plan.computed_prompt_tokens
    outputs = sum(r.sampling.max_tokens * r.num_samples for r in requests)
    assert result.output_tokens == outputs


@pytest.mark.rest
@settings(max_examples=60, deadline=None, suppress_health_check=[FIXED])
@given(policy=st.sampled_from(POLICIES), room=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_outputs_longer_than_expected_are_preempted_and_still_end(
    policy: str, room: int, seed: int, config_of: Any
) -> None:
    """A preempted sequence is found again by its tokens, those of its output included."""
    requests = random_requests(Random(seed), 4)
    config = config_of(block_size=4, num_blocks=smallest(requests, 4) + room)
    expected = [1] * len(requests)
    requests = [
        Request(r.request_id, "", r.prompt_token_ids, r.sampling, 0, r.num_samples, r.priority,
                None, 1)
        for r in requests
    ]  # fmt: skip
    plan = plan_requests(
        requests, policy, block_size=4, expected=expected, pool_tokens=config.pool_tokens
    )
    ended: list[Sequence] = []
    simulator = Simulator(config, COST, on_finished=lambda seq, _: ended.append(seq), check=True)
    result = simulator.run(plan.apply(requests))
    assert len(ended) == sum(r.num_samples for r in requests)
    assert all(seq.num_output == seq.state.request.sampling.max_tokens for seq in ended)
    outputs = sum(r.sampling.max_tokens * r.num_samples for r in requests)
    assert result.output_tokens == outputs


@pytest.mark.parametrize("policy", ["auto", "prefix"])
@given(seed=st.integers(0, 2**32), room=st.integers(0, 100))
@settings(max_examples=30, deadline=None, suppress_health_check=[FIXED])
def test_hashing_no_block_changes_nothing_without_prefix_lookup(
    policy: str, seed: int, room: int, config_of: Any
) -> None:
    """A list of exact, planned requests is examined beforehand; an iterator is not."""
    requests = random_requests(Random(seed), 4, ignore_eos=True)
    config = config_of(block_size=4, num_blocks=smallest(requests, 4) + room)
    plan = plan_requests(requests, policy, block_size=4, pool_tokens=config.pool_tokens)
    ordered = plan.apply(requests)
    assert Simulator(config, COST).run(ordered) == Simulator(config, COST).run(iter(ordered))


def test_the_search_for_cycles_is_on_again_afterwards(config_of: Any) -> None:
    requests = [Request(0, "", [1, 2, 3], Sampling(max_tokens=2, ignore_eos=True))]
    assert gc.isenabled()
    Simulator(config_of(), COST).run(requests)
    assert gc.isenabled()
