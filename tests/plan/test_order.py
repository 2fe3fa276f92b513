"""Orders: a permutation, priority first, neighbours by beginning, long outputs early."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.plan import POLICIES, plan_requests
from thothy_batch.records import Request, Sampling


def request(ids: list[int], max_tokens: int = 10, priority: int = 5) -> Request:
    return Request(0, "", ids, Sampling(max_tokens=max_tokens), priority=priority)


def order_requests(
    requests: list[Request], policy: str, *, block_size: int = 32, **more: Any
) -> list[int]:
    # A pool this small holds no prefix all night: the tree alone orders.
    more.setdefault("pool_tokens", 1)
    return plan_requests(requests, policy, block_size=block_size, **more).order


REQUESTS = st.lists(
    st.builds(
        request,
        st.lists(st.integers(0, 2), max_size=10),
        st.integers(1, 4),
        st.integers(4, 6),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(REQUESTS, st.sampled_from(POLICIES), st.integers(1, 4))
def test_every_policy_is_a_permutation_with_priority_first(
    requests: list[Request], policy: str, block_size: int
) -> None:
    order = order_requests(requests, policy, block_size=block_size)
    assert sorted(order) == list(range(len(requests)))
    priorities = [requests[i].priority for i in order]
    assert priorities == sorted(priorities, reverse=True)


@settings(deadline=None)
@given(REQUESTS, st.sampled_from(["auto", "prefix"]), st.integers(1, 4))
def test_readers_of_a_shared_beginning_stand_together(
    requests: list[Request], policy: str, block_size: int
) -> None:
    requests = [request(list(r.prompt_token_ids), r.sampling.max_tokens) for r in requests]
    order = order_requests(requests, policy, block_size=block_size)
    for depth in range(1, 10 // block_size + 1):
        beginnings = []
        for i in order:
            ids = tuple(requests[i].prompt_token_ids)
            shareable = max(len(ids) - 1, 0) // block_size
            beginnings.append(ids[: depth * block_size] if shareable >= depth else i)
        changes = sum(a != b for a, b in zip(beginnings, beginnings[1:], strict=False))
        assert changes == max(len(set(beginnings)) - 1, 0)


@settings(deadline=None)
@given(REQUESTS)
def test_order_does_not_depend_on_where_equal_work_stood(requests: list[Request]) -> None:
    by_length = order_requests(requests, "length")
    lengths = [
        (r.priority, r.sampling.max_tokens, len(r.prompt_token_ids))
        for r in (requests[i] for i in by_length)
    ]
    assert lengths == sorted(lengths, reverse=True)


def test_fifo_keeps_the_order_within_a_priority() -> None:
    requests = [request([1], priority=p) for p in (5, 9, 5, 0, 9)]
    assert order_requests(requests, "fifo") == [1, 4, 0, 2, 3]


def test_auto_starts_with_the_group_that_holds_the_longest_output() -> None:
    a, b = [1] * 8, [2] * 8
    requests = [
        request([*a, 7], 5),
        request([*b, 7], 3),
        request([*a, 8], 6),
        request([*b, 8], 9),
        request([3] * 9, 7),
    ]
    assert order_requests(requests, "auto", block_size=4) == [3, 1, 4, 2, 0]


def test_prefix_keeps_the_order_of_first_appearance() -> None:
    a, b = [1] * 8, [2] * 8
    requests = [request([*x, 7], n) for x, n in ((a, 1), (b, 9), (a, 9), (b, 1))]
    assert order_requests(requests, "prefix", block_size=4) == [0, 2, 1, 3]


def test_history_counts_where_it_is_known() -> None:
    requests = [request([i], 100) for i in range(3)]
    assert order_requests(requests, "auto", expected=[5, 50, 20]) == [1, 2, 0]


def test_a_deep_tree_is_walked_at_every_depth() -> None:
    # A common head, then documents, then instructions: three levels.
    rng = random.Random(2)
    head = [9] * 40
    documents = [[d] * 50 for d in range(20)]
    wanted = [[*head, *documents[d], *[100 + k] * 20] for d in range(20) for k in range(4)]
    shuffled = rng.sample(wanted, len(wanted))
    requests = [request(ids) for ids in shuffled]
    order = order_requests(requests, "auto", block_size=4)
    seen: list[Any] = [shuffled[i][60] for i in order]
    assert len([1 for a, b in zip(seen, seen[1:], strict=False) if a != b]) == 19


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown order 'best'"):
        order_requests([], "best")
