"""CUDA graphs of decode steps: one for each number of rows, rounded up, and kind of step."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch


def row_buckets(max_rows: int) -> list[int]:
    """Numbers of rows that steps are rounded up to: close enough that little is computed for
    nobody, few enough that all of them are captured before a night."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, 257, 16), *range(288, 1025, 32)]
    sizes += range(1152, max_rows + 128, 128)
    return [size for size in sizes if size < max_rows] + [max_rows]


def bucket_of(num_rows: int, buckets: list[int]) -> int:
    """The least bucket that holds so many rows."""
    return buckets[bisect_left(buckets, num_rows)]


class DecodeGraphs:
    """Replays a step; captures it first where that has not been done. All graphs share the memory
    of what they compute on the way: only one of them runs at a time."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    def replay(self, key: tuple[int, bool]) -> None:
        self._graphs[key].replay()

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, key: tuple[int, bool]) -> bool:
        return key in self._graphs

    def capture(self, key: tuple[int, bool], step: Callable[[], None]) -> None:
        """Capture `step`. It is run once before: kernels are compiled then, and libraries take
        what memory they keep. Its buffers must allow that, and hold nothing but padding."""
        if self._side is None:
            # One for all: libraries keep memory for each stream that they have computed on.
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
