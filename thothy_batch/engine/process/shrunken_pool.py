"""Requests too large for a restarted engine's KV pool that fit the pool with which the run began.

A new engine sizes its pool by the memory that is free at that moment, which may be short for a
while. Such requests wait until all others are done. Then an engine is started once more, and they
are given up only if its pool is too small again.
"""

from collections.abc import Iterable

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.limits import Limits, why_unfit
from thothy_batch.records import FailureCode, Request, RequestFailure, ResolvedEngine

_MAX_STARTS = 2  # in a run, for nothing but a larger pool: each loads the model


class ShrunkenPool:
    """Compares the pools of a run's engines. `first`: the one with which it began."""

    def __init__(self, first: ResolvedEngine) -> None:
        self._first = self._now = _limits(first)
        self._num_starts = 0

    @property
    def is_smaller(self) -> bool:
        """True if the current pool is smaller than the first one."""
        return (self._now.num_blocks or 0) < (self._first.num_blocks or 0)

    @property
    def num_tokens(self) -> int:
        """Capacity of the current pool."""
        return (self._now.num_blocks or 0) * self._now.layout.block_size

    def restarted(self, engine: ResolvedEngine) -> None:
        """Another engine is ready."""
        self._now = _limits(engine)

    def may_run(self, request: Request) -> bool:
        """False if a request has to wait for a larger pool. One that did not fit the first engine
        either is the engine's to refuse."""
        return (
            not self.is_smaller
            or not why_unfit(request, self._now)
            or bool(why_unfit(request, self._first))
        )

    def start_again(self) -> bool:
        """Return whether an engine is to be started for a larger pool, and count that."""
        self._num_starts += 1
        return self._num_starts <= _MAX_STARTS

    def failures(self, requests: Iterable[Request]) -> list[RequestFailure]:
        """The failures of requests that are not waited for any longer."""
        return [
            RequestFailure(
                request.request_id,
                FailureCode.ENGINE_ERROR,
                f"memory became short during the run: {why_unfit(request, self._now)}; "
                "it fit the pool with which the run began, and the next run tries it again",
                is_certain=False,
            )
            for request in requests
        ]


def _limits(engine: ResolvedEngine) -> Limits:
    layout = KVLayout(engine.layer_groups, engine.block_size)
    return Limits(engine.max_model_len, layout, engine.max_step_tokens, engine.num_blocks)
