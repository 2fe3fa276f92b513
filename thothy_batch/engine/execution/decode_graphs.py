"""CUDA graphs of decode steps: one per bucket of rows and kind of step."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch


def row_buckets(max_rows: int) -> list[int]:
    """Return the numbers of rows that decode steps are padded to.

    They are dense enough to compute little padding, and few enough to capture all before a run.
    """
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, 257, 16), *range(288, 1025, 32)]
    sizes += range(1152, max_rows + 128, 128)
    return [size for size in sizes if size < max_rows] + [max_rows]


def bucket_of(num_rows: int, buckets: list[int]) -> int:
    """Return the smallest bucket that holds `num_rows`."""
    return buckets[bisect_left(buckets, num_rows)]


class DecodeGraphs:
    """Captures and replays steps.

    All graphs share one memory pool for intermediate results: only one of them runs at a time.
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    def replay(self, key: tuple[int, bool]) -> None:
        self._graphs[key].replay()

    def __contains__(self, key: tuple[int, bool]) -> bool:
        return key in self._graphs

    def capture(self, key: tuple[int, bool], step: Callable[[], None]) -> None:
        """Capture `step` after running it once eagerly.

        That run compiles kernels and makes libraries allocate their workspaces. The step's buffers
        must hold nothing but padding.
        """
        if self._side is None:
            # One stream for all: libraries keep a workspace per stream they have computed on.
            self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._pool = self._pool or graph.pool()
        self._graphs[key] = graph
