"""Random traces of submit, step and failing steps: bookkeeping and outputs stay right."""

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = st.fixed_dictionaries(
    {
        "block_size": st.integers(1, 5),
        "num_blocks": st.integers(6, 30),
        "max_seqs": st.integers(1, 6),
        "max_step_tokens": st.integers(1, 16),
        "admission": st.sampled_from(["reserve", "optimistic"]),
        "prefix_sharing": st.sampled_from([True, True, False]),
        "lookahead": st.sampled_from([None, None, 0, 1, 3]),
        "max_steps": st.integers(1, 5),
        "bulk_tokens": st.sampled_from([0, 0, 8, 1000]),
    }
)
HEADS = [[1 + (step * i) % 7 for i in range(20)] for step in (1, 2)]
FIXED = HealthCheck.function_scoped_fixture  # the fixtures are plain functions


def draw_request(random: Random, number: int, request_of: Callable[..., Any]) -> Any:
    """Draw from few prefixes and lengths: many requests share blocks, and some are equal."""
    head = random.choice(HEADS)[: random.randint(0, 16)]
    tail = [random.randint(1, 2) for _ in range(random.randint(not head, 2))]
    return request_of(
        number,
        head + tail,
        max_tokens=random.randint(1, 12),
        num_samples=random.choice([1, 1, 1, 2, 4]),
        priority=random.choice([5, 5, 5, 9]),
        seed=random.randint(0, 2),
        ignore_eos=random.random() < 0.7,
        repetition_penalty=random.choice([1.0, 1.0, 1.5]),
    )


def digest(engine: Any) -> Any:
    """Return the state that a failed step must not change. Blocks findable by content may go."""
    scheduler = engine._scheduler
    order = [*scheduler._running, *scheduler._waiting]
    sequences = [
        (s.state.request.request_id, s.sample, s.status, list(s.output_ids), s.num_computed,
         s.num_tokens, s.num_unforked, s.num_ever_computed, s.state.cached_prompt_tokens,
         s.state.wasted_tokens, s.state.output_tokens, s.state.started_at)
        for s in order
    ]  # fmt: skip
    return sorted(sequences), engine.totals, scheduler._pinned.num_pinned


def fail_one_step(engine: Any, runner: Any) -> None:
    before = digest(engine)
    unread = len(engine._in_flight)
    preempted = engine._scheduler._decode_blocks.num_preempted
    runner.fail_next = True
    try:
        engine.step()
    except RuntimeError:
        pass
    else:
        assert runner.fail_next, "the step should have failed"
        runner.fail_next = False
        assert unread, "no step was launched, though no tokens were under way"
        return
    # Before a preemption all tokens are read, whereby sequences may finish.
    is_preempted = engine._scheduler._decode_blocks.num_preempted != preempted
    if not is_preempted and len(engine._in_flight) == unread:
        assert digest(engine) == before


@settings(max_examples=150, deadline=None, suppress_health_check=[FIXED])
@given(config=SETTINGS, num_operations=st.integers(0, 80), seed=st.integers(0, 2**32))
def test_any_trace_gives_every_request_its_output_and_leaks_no_block(
    config: dict[str, Any],
    num_operations: int,
    seed: int,
    shadow_engine: Callable[..., Any],
    request_of: Callable[..., Any],
    expected: Callable[..., Any],
    finish: Callable[..., Any],
) -> None:
    engine, runner = shadow_engine(**config)
    random = Random(seed)
    requests, results, refused = [], {}, 0

    def harvest() -> None:
        nonlocal refused
        update = engine.pop_update()
        refused += len(update.failures)
        for result in update.results:
            assert result.request_id not in results, "a request was completed twice"
            results[result.request_id] = result

    for _ in range(num_operations):
        operation = random.choices(["submit", "step", "fail"], [3, 6, 1])[0]
        if operation == "submit":
            requests.append(draw_request(random, len(requests), request_of))
            engine.submit(requests[-1:])
        elif engine.has_work and operation == "fail":
            fail_one_step(engine, runner)
        elif engine.has_work:
            engine.step()
        engine.check_integrity()
        harvest()
    # Each step computes a token that was never computed, or recomputes after a preemption; far
    # more than that means starvation or an endless loop.
    work = sum((len(r.prompt_token_ids) + r.sampling.max_tokens) * r.num_samples for r in requests)
    results |= finish(engine, max_steps=20 + 4 * work * len(requests))
    harvest()

    assert len(results) + refused == len(requests)
    for request_id, result in results.items():
        got = [completion.token_ids for completion in result.completions]
        assert got == expected(requests[request_id])
        assert result.output_tokens == sum(map(len, got))
    assert engine.pop_update().blocks_used == 0, "a block leaked"
    assert not engine._in_flight, "a launch was never read"
    slots = engine._executor._slots
    assert slots is None or not slots._slots, "a slot leaked"
    totals = engine.totals
    answered = [requests[i] for i in results]
    assert totals.prefill_tokens + totals.cached_prompt_tokens == sum(
        len(r.prompt_token_ids) for r in answered
    )
    assert totals.output_tokens == sum(r.output_tokens for r in results.values())
    assert totals.wasted_tokens == sum(r.wasted_tokens for r in results.values())
    assert max(runner.num_tokens, default=0) <= config["max_step_tokens"]
    if config["admission"] == "reserve":
        assert totals.num_preempted == 0
        is_late = config["lookahead"] or (config["lookahead"] == 0 and config["max_steps"] > 1)
        assert is_late or totals.wasted_tokens == 0
    if not config["prefix_sharing"]:
        assert totals.cached_prompt_tokens == 0
