"""Planned prefixes are computed once, pinned for their readers and freed, in any KV layout."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.records import LayerGroup, Request, SharedPrefix

FIXED = HealthCheck.function_scoped_fixture  # the fixtures are plain functions


def groups_of(*shape: tuple[int, int | None]) -> tuple[LayerGroup, ...]:
    """Build layer groups from (number of layers, window)."""
    groups, first = [], 0
    for num_layers, window in shape:
        groups.append(LayerGroup(tuple(range(first, first + num_layers)), window))
        first += num_layers
    return tuple(groups)


LAYOUTS = {
    "uniform": groups_of((3, None)),
    "one window": groups_of((2, 7)),
    "as many windowed layers": groups_of((2, None), (2, 5)),
    "as gemma 3": groups_of((2, None), (5, 6)),
    "two windows": groups_of((1, None), (2, 3), (3, 9)),
}


def tree_of(prompts: list[list[int]], block_size: int) -> list[tuple[SharedPrefix, ...]]:
    """Return each prompt's path in the tree of shared prefixes, found the slow way."""
    readers: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        for end in range(block_size, len(prompt), block_size):
            head = tuple(prompt[:end])
            readers[head] = readers.get(head, 0) + 1
    ids: dict[tuple[int, ...], int] = {}
    paths = []
    for prompt in prompts:
        path: list[SharedPrefix] = []
        heads = [tuple(prompt[:end]) for end in range(block_size, len(prompt), block_size)]
        shared = [head for head in heads if readers[head] > 1]
        for index, head in enumerate(shared):
            after = readers[shared[index + 1]] if index + 1 < len(shared) else 0
            if readers[head] != after:
                number = ids.setdefault(head, len(ids))
                path.append(SharedPrefix(number, len(head), readers[head]))
        paths.append(tuple(path))
    return paths


def planned_run(
    random: Random, block_size: int, request_of: Callable[..., Request], **more: Any
) -> tuple[list[Request], int]:
    """Requests depth first through the tree of what they share, and the prompt tokens that have
    to be computed."""
    heads = [[random.randint(1, 9) for _ in range(3 * block_size)] for _ in range(2)]
    prompts = []
    for _ in range(random.randint(1, 4)):
        head = random.choice(heads)[: random.randint(0, 3 * block_size)]
        document = head + [random.randint(1, 9) for _ in range(random.randint(1, 4 * block_size))]
        for _ in range(random.randint(1, 4)):
            prompts.append(document + [random.randint(1, 3) for _ in range(random.randint(0, 3))])
    prompts.sort()
    paths = tree_of(prompts, block_size)
    requests = [
        request_of(
            number,
            prompt,
            random.randint(1, 14),
            num_samples=random.choice([1, 1, 1, 3]),
            prefixes=path,
            seed=random.randint(0, 2),
            **more,
        )
        for number, (prompt, path) in enumerate(zip(prompts, paths, strict=True))
    ]
    known: set[tuple[int, ...]] = set()
    for prompt in prompts:
        ends = range(block_size, len(prompt), block_size)
        known |= {tuple(prompt[:end]) for end in ends}
    total = sum(map(len, prompts))
    blocks = sum((len(prompt) - 1) // block_size for prompt in prompts)
    return requests, total - (blocks - len(known)) * block_size


def smallest_pool(engine_config: Any, requests: list[Request]) -> int:
    layout, step = engine_config.layout, engine_config.max_step_tokens
    return max(
        layout.smallest_pool(
            len(r.prompt_token_ids),
            r.sampling.max_tokens,
            r.num_samples,
            min(step, len(r.prompt_token_ids) + r.sampling.max_tokens),
        )
        for r in requests
    )


def check_outputs(requests: list[Request], results: Any, expected: Any, window: Any) -> None:
    assert len(results) == len(requests)
    for request in requests:
        got = [c.token_ids for c in results[request.request_id].completions]
        assert got == expected(request, window)


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", LAYOUTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[FIXED])
@given(
    block_size=st.integers(1, 5),
    room=st.sampled_from([0, 3, 20, 60, 100]),
    max_seqs=st.integers(1, 8),
    max_step_tokens=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_shared_blocks_are_computed_once_and_nothing_is_preempted(
    shape: str,
    block_size: int,
    room: int,
    max_seqs: int,
    max_step_tokens: int,
    seed: int,
    shadow_engine: Any,
    config_of: Any,
    request_of: Any,
    expected: Any,
    finish: Any,
) -> None:
    """With exact lengths and any pool that fits the largest request the plan is met exactly."""
    layout = KVLayout(LAYOUTS[shape], block_size)
    random = Random(seed)
    requests, promised = planned_run(random, block_size, request_of, ignore_eos=True)
    config = {"layout": layout, "max_seqs": max_seqs, "max_step_tokens": max_step_tokens}
    smallest = smallest_pool(config_of(**config), requests)
    engine, _ = shadow_engine(**config, num_blocks=smallest + room)
    engine.submit(requests)
    results = finish(engine)
    check_outputs(requests, results, expected, LAYOUTS[shape][0].window)
    totals = engine.totals
    assert totals.num_preempted == totals.wasted_tokens == 0
    assert totals.prefill_tokens >= promised
    # In the smallest pools a pinned window may find no room beside its first reader.
    if shape == "uniform" or room >= 60:
        assert totals.prefill_tokens == promised
    assert totals.prefill_tokens + totals.cached_prompt_tokens == sum(
        len(r.prompt_token_ids) for r in requests
    )
    assert engine.pop_update().blocks_used == 0, "a block leaked"


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", LAYOUTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[FIXED])
@given(
    block_size=st.integers(1, 5),
    room=st.integers(0, 30),
    max_step_tokens=st.integers(1, 40),
    admission=st.sampled_from(["reserve", "optimistic"]),
    seed=st.integers(0, 2**32),
)
def test_any_run_gives_every_request_its_output(
    shape: str,
    block_size: int,
    room: int,
    max_step_tokens: int,
    admission: str,
    seed: int,
    shadow_engine: Any,
    config_of: Any,
    request_of: Any,
    expected: Any,
    finish: Any,
) -> None:
    """Lengths that are only guessed, any order, priorities, steps that fail, requests that never
    come: outputs are right and no block leaks."""
    layout = KVLayout(LAYOUTS[shape], block_size)
    random = Random(seed)
    requests, _ = planned_run(random, block_size, request_of, expected_tokens=random.randint(1, 14))
    random.shuffle(requests)
    config = {"layout": layout, "max_step_tokens": max_step_tokens, "admission": admission}
    smallest = smallest_pool(config_of(**config), requests)
    engine, runner = shadow_engine(**config, num_blocks=smallest + room)
    withheld = [r for r in requests if random.random() < 0.2]
    engine.cancel(withheld)
    submitted = [r for r in requests if r not in withheld]
    results: dict[int, Any] = {}
    for request in submitted:
        engine.submit([request])
        for _ in range(random.randint(0, 3)):
            if engine.has_work:
                runner.fail_next = random.random() < 0.1
                with suppress(RuntimeError):
                    engine.step()
                engine.check_integrity()
        runner.fail_next = False
        results |= {r.request_id: r for r in engine.pop_update().results}
    results |= finish(engine, max_steps=20_000)
    check_outputs(submitted, results, expected, LAYOUTS[shape][0].window)
    assert engine.pop_update().blocks_used == 0, "a block leaked"


def test_a_prefix_outlives_its_first_reader_and_ends_with_its_last(
    shadow_engine: Any, request_of: Any
) -> None:
    engine, _ = shadow_engine(block_size=4, num_blocks=40, max_seqs=1)
    prefix = (SharedPrefix(7, 8, 2),)
    first = request_of(0, list(range(1, 11)), 2, ignore_eos=True, prefixes=prefix)
    second = request_of(1, [*range(1, 9), 3], 2, ignore_eos=True, prefixes=prefix)
    engine.submit([first])
    while engine.has_work:
        engine.step()
    assert engine.pop_update().blocks_used == 2, "pinned for the second"
    engine.submit([second])
    engine.step()
    assert engine.totals.cached_prompt_tokens == 8
    while engine.has_work:
        engine.step()
    assert engine.pop_update().blocks_used == 0


def test_a_pinned_prefix_is_freed_when_its_readers_are_cancelled(
    shadow_engine: Any, request_of: Any
) -> None:
    engine, _ = shadow_engine(block_size=4, num_blocks=40)
    prefix = (SharedPrefix(7, 8, 3),)
    requests = [
        request_of(i, [*range(1, 9), i + 1], 2, ignore_eos=True, prefixes=prefix) for i in range(3)
    ]
    engine.submit(requests[:1])
    while engine.has_work:
        engine.step()
    engine.cancel(requests[1:2])
    assert engine.pop_update().blocks_used == 2
    engine.cancel(requests[2:])
    assert engine.pop_update().blocks_used == 0


def test_samples_and_prompts_with_a_common_prefix_form_groups(
    shadow_engine: Any, request_of: Any
) -> None:
    engine, _ = shadow_engine(block_size=4, num_blocks=64, max_seqs=16, max_step_tokens=64)
    path = (SharedPrefix(0, 4, 3), SharedPrefix(1, 12, 2))
    head, document = [1, 2, 3, 4], [5, 6, 7, 8, 9, 1, 2, 3]
    engine.submit(
        [
            request_of(0, [*head, *document, 2], 5, ignore_eos=True, prefixes=path),
            request_of(1, [*head, *document, 3], 5, ignore_eos=True, prefixes=path),
            request_of(2, [*head, 9, 9], 5, ignore_eos=True, prefixes=path[:1], num_samples=2),
        ]
    )
    engine.step()
    scheduled = engine._scheduler.schedule()
    batch = engine._executor._builder.build(scheduled)
    assert len(scheduled.decoding) == 4
    assert batch.shared.tolist() == [[0, 4, 0, 4], [2, 4, 4, 12]]
