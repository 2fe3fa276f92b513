"""A pool of worker processes that maps chunks in order, with a bounded number in flight."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from thothy_batch.errors import ThothyError
from thothy_batch.process.children import (
    end_with_parent,
    obey_parent_sigterm,
    parent_signals_blocked,
)

T = TypeVar("T")
R = TypeVar("R")

# Chunks handed out per worker: one being computed, one ready.
_CHUNKS_PER_WORKER = 2
_CHECK_S = 5.0  # between checks that all workers live

# The function that this worker process applies to chunks; set once, when the process starts.
_work: Callable[[list[Any]], Any] | None = None


def map_chunks(
    make_worker: Callable[[], Callable[[list[T]], R]],
    chunks: Iterable[list[T]],
    *,
    num_workers: int,
) -> Iterator[R]:
    """Yield `make_worker()(chunk)` for every chunk, in the order of the chunks.

    `make_worker` is called once in each process and has to be picklable (a function of a module, or
    a functools.partial of one); with `num_workers` 0 everything happens here. Chunks are read only
    as far ahead as workers can take them. What a worker raises is raised here. Ending the iteration
    early ends the workers after their present chunk.
    """
    if num_workers == 0:
        work = make_worker()
        yield from map(work, chunks)
        return
    # A signal handler runs in the main thread and may raise there; in a thread of its own no start
    # of a process is interrupted halfway.
    with ThreadPoolExecutor(1) as starter:

        def start(call: Callable[..., Any], *args: Any) -> Future[Any]:
            return starter.submit(_with_signals_blocked, call, *args)

        pool = start(_make_pool, num_workers, make_worker).result()
        yield from _spread(start, pool, chunks, num_workers * _CHUNKS_PER_WORKER)


def _make_pool(
    num_workers: int, make_worker: Callable[[], Callable[[list[T]], R]]
) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        num_workers,
        # Spawned: a fork of a process with threads, locks and an open store is unsafe.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(make_worker,),
    )


def _with_signals_blocked(call: Callable[..., Any], *args: Any) -> Any:
    with parent_signals_blocked():
        return call(*args)


def _spread(
    start: Callable[..., Future[Any]],
    pool: ProcessPoolExecutor,
    chunks: Iterable[list[T]],
    max_pending: int,
) -> Iterator[Any]:
    pending: deque[Future[Any]] = deque()
    workers: list[BaseProcess] = []
    try:
        for chunk in chunks:
            pending.append(start(pool.submit, _run_chunk, chunk).result())
            workers = list((pool._processes or {}).values())
            if len(pending) >= max_pending:
                yield _result(pending.popleft(), workers)
        while pending:
            yield _result(pending.popleft(), workers)
    except BrokenProcessPool as error:
        for worker in workers:  # the pool asks them to end, and waits for those that do not react
            worker.kill()
        raise ThothyError(
            "a worker process that renders and tokenises ended unexpectedly",
            hint="memory may have run out; see the lines above, or run with fewer jobs at once",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Any], workers: Sequence[BaseProcess]) -> Any:
    """The result of a chunk. Raises BrokenProcessPool also for a worker that died in the middle of
    sending: the pool itself would wait for the rest forever."""
    while not future.done():
        futures.wait([future], timeout=_CHECK_S)
        if not future.done() and any(worker.exitcode is not None for worker in workers):
            futures.wait([future], timeout=_CHECK_S)  # the pool may have noticed meanwhile
            if not future.done():
                raise BrokenProcessPool("a worker has ended")
    return future.result()


def _start_worker(make_worker: Callable[[], Callable[[list[Any]], Any]]) -> None:
    global _work  # noqa: PLW0603  (one value per process, as the pool offers no other place)
    end_with_parent()
    # The signals stay blocked: a worker that dies while it sends leaves the parent waiting for the
    # rest. By SIGTERM a broken pool ends its other workers.
    obey_parent_sigterm()
    _work = make_worker()


def _run_chunk(chunk: list[Any]) -> Any:
    assert _work is not None
    return _work(chunk)
