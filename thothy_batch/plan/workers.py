"""Work spread over processes, in order, bounded in flight, and gone when the parent is gone."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from thothy_batch.errors import ThothyError

T = TypeVar("T")
R = TypeVar("R")

# Chunks handed out per worker: one at work, one ready.
_CHUNKS_PER_WORKER = 2
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What this worker process does with a chunk; set once, when the process starts.
_work: Callable[[list[Any]], Any] | None = None


def map_chunks(
    make_worker: Callable[[], Callable[[list[T]], R]],
    chunks: Iterable[list[T]],
    *,
    num_workers: int,
) -> Iterator[R]:
    """`make_worker()(chunk)` for every chunk, in the order of the chunks.

    `make_worker` is called once in each process and has to be picklable (a function of a module, or
    a functools.partial of one); with `num_workers` 0 everything happens here. Chunks are read only
    as far ahead as workers can take them. What a worker raises is raised here. Ending the iteration
    early ends the workers after their present chunk.
    """
    if num_workers == 0:
        work = make_worker()
        yield from map(work, chunks)
        return
    pool = ProcessPoolExecutor(
        num_workers,
        # Spawned: a forked copy of a process with threads, locks and an open store is no safe one.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(make_worker,),
    )
    pending: deque[Future[R]] = deque()
    try:
        for chunk in chunks:
            pending.append(_submit(pool, chunk))
            if len(pending) >= num_workers * _CHUNKS_PER_WORKER:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ThothyError(
            "a worker process that renders and tokenises ended unexpectedly",
            hint="memory may have run out; see the lines above, or run with fewer jobs at once",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, chunk: list[Any]) -> Future[Any]:
    """This is where a worker is started. It inherits what is blocked: a signal to the whole group
    must not end it before it ignores them, nor this process in the middle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        return pool.submit(_run_chunk, chunk)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(make_worker: Callable[[], Callable[[list[Any]], Any]]) -> None:
    global _work  # noqa: PLW0603  (one value per process, as the pool offers no other place)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # They reach the whole process group; the parent decides what they mean. Not SIGTERM: by it a
    # pool that is broken ends the rest of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS_SIGNALS)
    _work = make_worker()


def _run_chunk(chunk: list[Any]) -> Any:
    assert _work is not None
    return _work(chunk)


def _end_with_parent() -> None:
    """A worker waits on a queue whose other end it holds itself: the parent's death would not wake
    it. This thread does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
