"""The plan of a night's requests: in which order, what is computed once, and how much that is."""

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

# Of the pool, what may be held all night for readers far apart, and of that for readers of one
# priority: see tests/bench/LOG.md. Without a known pool, blocks.
_HELD_SHARE = 0.5
_COMMON_SHARE = 1 / 16
_HELD_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """`order`: positions in the list of requests. `prefixes` by position, None for a request that
    looks for equal blocks by itself. Lengths in tokens."""

    order: list[int]
    prefixes: list[Path | None]
    content: list[Path]  # what prompts have in common, whatever is made of it
    prompt_tokens: int
    unique_prompt_tokens: int  # every shared block computed once
    # Promised, to the token, where nobody is preempted and the pool holds each request with the
    # ends of windows that it leaves to later readers. None: it depends on what is evicted.
    computed_prompt_tokens: int | None
    num_prefixes: int
    num_levels: int  # prefixes on the longest path

    def apply(self, requests: Sequence[Request]) -> list[Request]:
        """The requests in their order, with their prefixes."""
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
    """Plans all requests of a night.

    `expected`: output tokens per request, left out max_tokens. `pool_tokens`: what the KV pool
    holds. `costs`: seconds per request; where they come to more than `time_left_s`, `auto` puts
    what gives most artifacts first. `chains`: of the prompts, where they are there already.
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
        tree = prefix_tree(chains, levels, _holding(requests, content, pool_tokens))
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
    """Higher goes first: by priority, within it by how soon an answer is due."""
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
        # A cost counts the whole prompt: what others share is not to be paid again.
        part = (tree.own_lengths() + outputs) / np.maximum(chains.lengths + outputs, 1)
        return tree_order(levels, tree, -np.asarray(costs, np.float64) * part, mean=True)
    return tree_order(levels, tree, outputs.astype(np.float64))


def _holding(
    requests: Sequence[Request], content: PrefixTree, pool_tokens: int | None
) -> RetentionBudget:
    """What may be held all night: the largest request still fits beside it.

    Where the whole night fits the pool, holding costs nothing. Otherwise a block that is held takes
    its part of the pool from all the night's work, and spares computing it a few times: both are
    counted in blocks of tokens to be computed.
    """
    if pool_tokens is None:
        return RetentionBudget(_HELD_BLOCKS)
    block_size = content.chains.block_size
    samples = max((r.num_samples for r in requests), default=1)
    largest = max(map(_largest_tokens, requests), default=0)
    free = pool_tokens - largest - 2 * block_size * samples
    outputs = sum(r.sampling.max_tokens * r.num_samples for r in requests)
    work = content.computed_tokens + outputs
    parts = sum(r.num_samples + 1 for r in requests)  # each may leave a block partly filled
    if work + parts * block_size <= pool_tokens:
        return RetentionBudget(max(0, free) // block_size)
    most = max(0, min(int(pool_tokens * _HELD_SHARE), free)) // block_size
    common = int(pool_tokens * _COMMON_SHARE) // block_size
    return RetentionBudget(most, work / pool_tokens, common)


def _is_lost(content: PrefixTree, tree: PrefixTree) -> bool:
    """Whether the plan saves less than it leaves to several priorities to compute again. Who looks
    for equal blocks by himself then finds some of that, and what the plan would have saved too."""
    saved = int(tree.chains.lengths.sum()) - tree.computed_tokens
    return tree.computed_tokens - content.computed_tokens > saved


def _largest_tokens(request: Request) -> int:
    outputs = request.sampling.max_tokens * request.num_samples
    return len(request.prompt_token_ids) + outputs


def _with_prefixes(request: Request, prefixes: Path | None) -> Request:
    if request.prefixes == prefixes:
        return request
    # dataclasses.replace takes four times as long, and a night has a million.
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
    )
