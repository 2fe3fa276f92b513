"""Scheduler properties, on a shadow model that detects wrong KV blocks."""

from typing import Any

import pytest

from thothy_batch.records import FailureCode, FinishReason, SharedPrefix

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def schedule(engine: Any) -> Any:
    return engine._scheduler.schedule()


def test_a_prefix_is_shared_within_the_step_that_computes_it(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    engine, runner = shadow_engine(block_size=4)
    requests = [request_of(i, [*PROMPT, i], 4) for i in range(5)]
    engine.submit(requests)
    results = finish(engine)
    assert runner.num_tokens[0] == 11 + 4 * 3, "two of the prompt's blocks are computed once"
    assert [results[i].cached_prompt_tokens for i in range(5)] == [0, 8, 8, 8, 8]
    for request in requests:
        got = [c.token_ids for c in results[request.request_id].completions]
        assert got == expected(request)


def test_a_prompt_that_is_wholly_cached_computes_its_last_token(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    engine, _ = shadow_engine(block_size=5)
    for number in range(2):
        request = request_of(number, PROMPT, 3)
        engine.submit([request])
        result = finish(engine)[number]
        assert [result.completions[0].token_ids] == expected(request)
    assert result.cached_prompt_tokens == 5, "not 10: logits of the last token are needed"


def test_samples_share_their_prompt_and_copy_its_last_block_only(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    engine, runner = shadow_engine(block_size=4, num_blocks=20)
    request = request_of(0, PROMPT, 3, num_samples=4, temperature=1.0, ignore_eos=True)
    engine.submit([request])
    engine.step()
    assert runner.num_tokens == [len(PROMPT)], "the prompt is computed once"
    assert engine.pop_update().blocks_used == 2 + 4 * 2, "two full blocks are shared"
    batch = schedule(engine)
    assert len(batch.copies) == 3, "the first sample keeps the original block"
    result = finish(engine)[0]
    assert [c.token_ids for c in result.completions] == expected(request)
    assert len(set(expected(request))) == 4
    assert (result.prompt_tokens, result.output_tokens) == (10, 12)


def test_higher_priority_is_admitted_first_then_the_order_of_submission(
    shadow_engine: Any, request_of: Any, finish: Any
) -> None:
    engine, _ = shadow_engine(max_seqs=1)
    for number, priority in enumerate([5, 0, 9, 5, 9]):
        engine.submit([request_of(number, PROMPT, 3, priority=priority, ignore_eos=True)])
    results = finish(engine)
    order = sorted(results, key=lambda i: results[i].queue_s)
    assert order == [2, 4, 0, 3, 1]


def test_a_batch_lasts_until_the_next_sequence_reaches_its_length(
    shadow_engine: Any, request_of: Any
) -> None:
    engine, _ = shadow_engine(block_size=2)
    engine.submit([request_of(i, PROMPT, 5 + 3 * i, ignore_eos=True) for i in range(2)])
    engine.step()
    batch = schedule(engine)
    assert (len(batch.decoding), len(batch.chunks), batch.num_steps) == (2, 0, 4)
    for _ in range(4):
        engine.step()
    assert [r.request_id for r in engine.pop_update().results] == [0]
    assert schedule(engine).num_steps == 3


def test_a_submission_ends_a_batch_early(shadow_engine: Any, request_of: Any) -> None:
    engine, _ = shadow_engine()
    engine.submit([request_of(0, PROMPT, 20, ignore_eos=True)])
    engine.step()
    engine.step()
    engine.submit([request_of(1, PROMPT, 20, ignore_eos=True)])
    engine.step()
    assert engine.pop_update().num_running == 2


def test_a_long_prompt_is_computed_in_chunks_while_others_decode(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    engine, runner = shadow_engine(max_step_tokens=6, block_size=4)
    requests = [request_of(0, [7], 12, ignore_eos=True), request_of(1, list(range(1, 16)) * 2, 4)]
    engine.submit(requests[:1])
    engine.step()
    engine.submit(requests[1:])
    results = finish(engine)
    assert runner.num_tokens[:6] == [1, 6, 6, 6, 6, 6]
    assert max(runner.num_tokens) == 6
    for request in requests:
        got = [c.token_ids for c in results[request.request_id].completions]
        assert got == expected(request)


def test_reservation_never_preempts_and_optimism_does(
    shadow_engine: Any, request_of: Any, finish: Any
) -> None:
    for admission, preempts in (("reserve", False), ("optimistic", True)):
        engine, _ = shadow_engine(num_blocks=8, block_size=4, admission=admission)
        engine.submit([request_of(i, [i + 1] * 6, 12, ignore_eos=True) for i in range(6)])
        results = finish(engine)
        assert len(results) == 6
        assert (engine.totals.num_preempted > 0) == preempts
        assert (engine.totals.wasted_tokens > 0) == preempts
        steps = engine.pop_update().steps or []
        assert sum(step.num_preempted for step in steps) in (0, engine.totals.num_preempted)


def test_the_youngest_is_preempted_and_the_oldest_always_advances(
    shadow_engine: Any, request_of: Any
) -> None:
    engine, _ = shadow_engine(num_blocks=6, block_size=2, admission="optimistic")
    engine.submit([request_of(i, [i + 1, i + 2], 8, ignore_eos=True) for i in range(3)])
    oldest = engine._scheduler._waiting
    first = next(iter(oldest))
    lengths = []
    while first.finish_reason is None:
        engine.step()
        engine.check_integrity()
        lengths.append(first.num_output)
    assert lengths == list(range(1, 9))
    assert engine.totals.num_preempted > 0


@pytest.mark.parametrize(
    ("prompt_len", "max_tokens", "num_samples", "numbers"),
    [
        (200, 57, 1, ("200", "57", "256")),
        (10, 30, 1, ("10", "30", "32")),
        (10, 8, 4, ("10", "8", "32")),
    ],
)
def test_a_request_that_can_never_fit_fails_with_its_three_numbers(
    shadow_engine: Any,
    request_of: Any,
    prompt_len: int,
    max_tokens: int,
    num_samples: int,
    numbers: tuple[str, ...],
) -> None:
    engine, _ = shadow_engine(num_blocks=8, block_size=4)
    engine.submit([request_of(7, [1] * prompt_len, max_tokens, num_samples=num_samples)])
    (failure,) = engine.pop_update().failures
    assert failure.request_id == 7
    assert failure.code is FailureCode.PROMPT_TOO_LONG
    assert all(number in failure.message for number in numbers), failure.message
    assert not engine.has_work


def test_a_request_that_just_fits_runs(shadow_engine: Any, request_of: Any, finish: Any) -> None:
    engine, _ = shadow_engine(num_blocks=8, block_size=4)
    engine.submit([request_of(0, [1] * 20, 12, ignore_eos=True)])
    engine.submit([request_of(1, [2] * 10, 2, num_samples=6, ignore_eos=True)])
    results = finish(engine)
    assert [len(results[i].completions) for i in (0, 1)] == [1, 6]


@pytest.mark.parametrize("prompt", [[], [16], [-1]])
def test_an_unusable_prompt_fails_alone(
    shadow_engine: Any, request_of: Any, finish: Any, prompt: list[int]
) -> None:
    engine, _ = shadow_engine()
    engine.submit([request_of(0, prompt), request_of(1, PROMPT)])
    assert list(finish(engine)) == [1]


def test_an_unusable_prompt_is_invalid_input(shadow_engine: Any, request_of: Any) -> None:
    engine, _ = shadow_engine()
    engine.submit([request_of(0, [1, 99])])
    (failure,) = engine.pop_update().failures
    assert failure.code is FailureCode.INVALID_INPUT
    assert "99" in failure.message


def test_stop_admitting_finishes_started_requests_and_drops_the_rest(
    shadow_engine: Any, request_of: Any, finish: Any
) -> None:
    engine, _ = shadow_engine(num_blocks=6, block_size=2, admission="optimistic")
    engine.submit([request_of(i, [i + 1, i + 2], 8, ignore_eos=True) for i in range(9)])
    while not engine.totals.num_preempted:
        engine.step()
    started = engine.pop_update()
    engine.stop_admitting()
    engine.give_back()
    engine.submit([request_of(9, PROMPT)])
    update = engine.pop_update()
    assert update.num_waiting == 0
    results = finish(engine)
    assert len(results) + len(started.results) == started.num_running + len(started.results)
    assert all(r.completions[0].finish_reason is FinishReason.LENGTH for r in results.values())


def test_decode_computes_each_token_once(shadow_engine: Any, request_of: Any, finish: Any) -> None:
    engine, runner = shadow_engine()
    engine.submit([request_of(i, [i + 1] * 5, 9, ignore_eos=True) for i in range(4)])
    finish(engine)
    assert sum(runner.num_tokens) == 4 * (5 + 9 - 1)


def test_a_failed_step_does_not_leave_overwritten_blocks_findable(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    """The failing step allocates the free blocks of an earlier prompt and writes into them."""
    engine, runner = shadow_engine(num_blocks=4, block_size=4)
    engine.submit([request_of(0, PROMPT, 2)])
    finish(engine)
    engine.submit([request_of(1, [7] * 14, 2)])
    runner.fail_next = True
    with pytest.raises(RuntimeError):
        engine.step()
    engine.stop_admitting()
    engine.give_back()
    again, _ = shadow_engine(num_blocks=4, block_size=4)
    again._scheduler = again._intake._scheduler = engine._scheduler
    again._executor._launcher._runner = runner
    request = request_of(2, PROMPT, 2)
    again.submit([request])
    result = finish(again)[2]
    assert [result.completions[0].token_ids] == expected(request)


def test_a_prompt_that_continues_after_the_stop_pins_nothing_for_dropped_requests(
    shadow_engine: Any, request_of: Any
) -> None:
    prefix = (SharedPrefix(0, 24, 2),)
    engine, _ = shadow_engine(max_step_tokens=6, max_seqs=1)
    engine.submit(
        request_of(number, [*range(1, 13), *range(1, 13), number], 3, prefixes=prefix)
        for number in range(2)
    )
    engine.step()
    engine.stop_admitting()
    engine.give_back()
    while engine.has_work:
        engine.step()
        engine.check_integrity()
    assert engine.pop_update().blocks_used == 0


def test_an_engine_that_stops_admitting_still_reads_every_launch(
    shadow_engine: Any, request_of: Any, expected: Any
) -> None:
    """The last running sequence turns out to have ended when the queue is dropped."""
    for seed in range(40):
        engine, _ = shadow_engine(lookahead=3, max_steps=2, max_seqs=1)
        engine.submit([request_of(i, PROMPT, 12, temperature=1.0, seed=seed) for i in range(2)])
        while not engine.has_update:
            engine.step()
        engine.stop_admitting()
        engine.give_back()
        while engine.has_work:
            engine.step()
        assert not engine._in_flight
        results = engine.pop_update().results
        assert engine.totals.wasted_tokens == sum(result.wasted_tokens for result in results)


def test_sequences_get_blocks_early_so_that_batches_last(
    shadow_engine: Any, request_of: Any, finish: Any
) -> None:
    """Forty sequences that need their next blocks at different steps."""
    begun = {}
    for lookahead in (None, 1):
        engine, _ = shadow_engine(
            lookahead=lookahead, max_steps=4, block_size=4, num_blocks=1500, max_seqs=40,
            max_step_tokens=1000, admission="optimistic",
        )  # fmt: skip
        builder = engine._executor._builder
        build, calls = builder.build, []
        builder.build = lambda batch, build=build, calls=calls: calls.append(1) or build(batch)
        engine.submit([request_of(i, [1] * (10 + i), 60, ignore_eos=True) for i in range(40)])
        assert len(finish(engine)) == 40
        begun[lookahead] = len(calls)
    assert begun[1] <= 60 / 4 + 6 < begun[None]


def test_a_shortage_with_unread_tokens_preempts_nothing_until_they_are_read(
    shadow_engine: Any, request_of: Any, finish: Any, expected: Any
) -> None:
    engine, _ = shadow_engine(num_blocks=6, block_size=2, admission="optimistic", max_seqs=3)
    requests = [request_of(i, [i + 1, i + 2], 8, ignore_eos=True) for i in range(3)]
    engine.submit(requests)
    scheduler = engine._scheduler
    engine.step()
    while not (batch := scheduler.schedule(tokens_known=False)).is_short:
        engine.step()
    used, running = scheduler.blocks_used, list(scheduler._running)
    again = scheduler.schedule(tokens_known=False)
    assert again.is_short
    assert not batch.preempted
    assert (scheduler.blocks_used, list(scheduler._running)) == (used, running)
    engine.check_integrity()
    known = scheduler.schedule()
    assert not known.is_short
    assert known.preempted == [running[-1]]
    results = finish(engine)
    for request in requests:
        got = [c.token_ids for c in results[request.request_id].completions]
        assert got == expected(request)


def test_launched_tokens_are_read_before_a_preemption(
    shadow_engine: Any, request_of: Any, finish: Any
) -> None:
    engine, _ = shadow_engine(
        num_blocks=8, block_size=2, admission="optimistic", max_seqs=4, lookahead=2, max_steps=2
    )
    engine.submit([request_of(i, [i + 1, i + 2], 9, ignore_eos=True) for i in range(4)])
    schedule, num_unread = engine._scheduler.schedule, []

    def spy(**options: Any) -> Any:
        batch = schedule(**options)
        if batch.preempted:
            num_unread.append(len(engine._in_flight))
        return batch

    engine._scheduler.schedule = spy
    assert len(finish(engine)) == 4
    assert num_unread
    assert not any(num_unread)
