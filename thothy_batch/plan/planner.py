"""Plans a run's requests: their order, the prefixes computed once, and the tokens computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thothy_batch.plan.block_hashes import I64, BlockHashes, chain_prompts
from thothy_batch.plan.order import POLICIES, plain_order, tree_order
from thothy_batch.plan.prefix_tree import PrefixTree, RetentionBudget, prefix_tree
from thothy_batch.plan.sharing_stats import BLOCK_SIZE
from thothy_batch.records import Request, SharedPrefix

Path = tuple[SharedPrefix, ...]

# Share of the pool that may be held for a whole run for readers far apart, and the part of it for
# readers of one priority (tests/bench/LOG.md). Number of blocks if the pool is unknown.
_HELD_SHARE = 0.5
_COMMON_SHARE = 1 / 16
_HELD_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """The order of a run's requests and what they share. Lengths in tokens.

    `order` holds positions in the list of requests. `prefixes` are by position; None for a request
    whose shared blocks the engine finds by content hash."""

    order: list[int]
    prefixes: list[Path | None]
    content: list[Path]  # sharing that exists, whether or not the plan uses it
    prompt_tokens: int
    unique_prompt_tokens: int  # every shared block computed once
    # Exact to the token if nothing is preempted and the pool holds each request beside the window
    # ends that it leaves to later readers. None if it depends on evictions.
    computed_prompt_tokens: int | None
    num_prefixes: int
    num_levels: int  # prefixes on the longest path

    def apply(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests in plan order, with their prefixes."""
        return [_with_prefixes(requests[index], self.prefixes[index]) for index in self.order]


def plan_requests(
    requests: Sequence[Request],
    policy: str,
    *,
    block_size: int = BLOCK_SIZE,
    sharing: bool = True,
    expected: Sequence[int] | None = None,
    pool_tokens: int | None = None,
    costs: Sequence[float] | None = None,
    time_left_s: float | None = None,
    chains: BlockHashes | None = None,
) -> RequestPlan:
    """Plan all requests of a run.

    `expected`: output tokens per request; default max_tokens. `pool_tokens`: capacity of the KV
    pool in tokens. `costs`: seconds per request; if they exceed `time_left_s`, `auto` puts the
    requests that yield most artifacts first. `chains`: block hashes, if already computed.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown order {policy!r}: {', '.join(POLICIES)}")
    chains = chains or chain_prompts([r.prompt_token_ids for r in requests], block_size)
    levels = _levels(requests)
    if expected is None:
        expected = [r.sampling.max_tokens for r in requests]
    outputs = np.asarray(expected, np.int64)
    content = prefix_tree(chains, np.zeros_like(levels))
    tree = content
    if policy in ("auto", "prefix"):
        tree = prefix_tree(chains, levels, _retention_budget(requests, content, pool_tokens))
    fits = None
    if costs is not None and time_left_s is not None:
        fits = sum(costs) <= time_left_s
    order = _order(policy, levels, outputs, chains, tree, None if fits in (None, True) else costs)
    total = int(chains.lengths.sum())
    prefixes: list[Path | None]
    if not sharing:
        prefixes, promised = [()] * len(requests), total
    elif policy in ("fifo", "length") or _is_lost(content, tree):
        prefixes, promised = [None] * len(requests), None
    else:
        prefixes, promised = list(tree.paths()), tree.computed_tokens
    paths = content.paths()
    return RequestPlan(
        order=order,
        prefixes=prefixes,
        content=paths,
        prompt_tokens=total,
        unique_prompt_tokens=content.computed_tokens,
        computed_prompt_tokens=promised,
        num_prefixes=content.num_nodes,
        num_levels=max(map(len, paths), default=0),
    )


def _levels(requests: Sequence[Request]) -> I64:
    """Return a level per request, higher first: by priority, then by earliest deadline."""
    priorities = np.fromiter((r.priority for r in requests), np.int64, len(requests))
    if all(r.ends_at is None for r in requests):
        return priorities
    ends = [math.inf if r.ends_at is None else r.ends_at for r in requests]
    keys = np.stack([priorities.astype(np.float64), -np.asarray(ends)], axis=1)
    _, levels = np.unique(keys, axis=0, return_inverse=True)
    return np.asarray(levels, np.int64).reshape(-1)


def _order(
    policy: str,
    levels: I64,
    outputs: I64,
    chains: BlockHashes,
    tree: PrefixTree,
    costs: Sequence[float] | None,
) -> list[int]:
    if policy == "fifo":
        return plain_order(levels)
    if policy == "length":
        return plain_order(levels, -outputs, -chains.lengths)
    if policy == "prefix":
        return tree_order(levels, tree, np.zeros(len(levels)))
    if costs is not None:
        # A cost counts the whole prompt; the shared part is not paid again.
        part = (tree.own_lengths() + outputs) / np.maximum(chains.lengths + outputs, 1)
        return tree_order(levels, tree, -np.asarray(costs, np.float64) * part, mean=True)
    return tree_order(levels, tree, outputs.astype(np.float64))


def _retention_budget(
    requests: Sequence[Request], content: PrefixTree, pool_tokens: int | None
) -> RetentionBudget:
    """Return the blocks that may be held for the whole run beside the largest request.

    If the whole run fits the pool, holding is free. Otherwise a held block takes its share of the
    pool from all other work and saves computing it a few times; both are counted in blocks of
    tokens to be computed.
    """
    if pool_tokens is None:
        return RetentionBudget(_HELD_BLOCKS)
    block_size = content.chains.block_size
    samples = max((r.num_samples for r in requests), default=1)
    largest = max(map(_largest_tokens, requests), default=0)
    free = pool_tokens - largest - 2 * block_size * samples
    outputs = sum(r.sampling.max_tokens * r.num_samples for r in requests)
    work = content.computed_tokens + outputs
    parts = sum(r.num_samples + 1 for r in requests)  # each may leave one block partly filled
    if work + parts * block_size <= pool_tokens:
        return RetentionBudget(max(0, free) // block_size)
    most = max(0, min(int(pool_tokens * _HELD_SHARE), free)) // block_size
    common = int(pool_tokens * _COMMON_SHARE) // block_size
    return RetentionBudget(most, work / pool_tokens, common)


def _is_lost(content: PrefixTree, tree: PrefixTree) -> bool:
    """True if planned sharing saves less than is recomputed across priorities.

    Content-hash lookup then finds some of that, and what the plan would have saved as well."""
    saved = int(tree.chains.lengths.sum()) - tree.computed_tokens
    return tree.computed_tokens - content.computed_tokens > saved


def _largest_tokens(request: Request) -> int:
    outputs = request.sampling.max_tokens * request.num_samples
    return len(request.prompt_token_ids) + outputs


def _with_prefixes(request: Request, prefixes: Path | None) -> Request:
    if request.prefixes == prefixes:
        return request
    # dataclasses.replace takes four times as long, and a run can have a million requests.
    return Request(
        request.request_id,
        request.request_key,
        request.prompt_token_ids,
        request.sampling,
        request.seed,
        request.num_samples,
        request.priority,
        prefixes,
        request.expected_tokens,
        request.ends_at,
        request.later_tokens,
        request.later_prompt_tokens,
    )
