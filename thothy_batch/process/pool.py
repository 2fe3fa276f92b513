"""Work spread over processes, in order, bounded in flight, and gone when the parent is gone."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from thothy_batch.errors import ThothyError

T = TypeVar("T")
R = TypeVar("R")

# Chunks handed out per worker: one at work, one ready.
_CHUNKS_PER_WORKER = 2
_LOOK_S = 5.0  # between looks at whether all workers live
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
    # A signal's handler runs in the main thread and may raise there: in this one no start of a
    # process is cut off in the middle.
    with ThreadPoolExecutor(1) as starter:

        def start(call: Callable[..., Any], *args: Any) -> Future[Any]:
            return starter.submit(_shielded, call, *args)

        pool = start(_make_pool, num_workers, make_worker).result()
        yield from _spread(start, pool, chunks, num_workers * _CHUNKS_PER_WORKER)


def _make_pool(
    num_workers: int, make_worker: Callable[[], Callable[[list[T]], R]]
) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        num_workers,
        # Spawned: a forked copy of a process with threads, locks and an open store is no safe one.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(make_worker,),
    )


def _shielded(call: Callable[..., Any], *args: Any) -> Any:
    """In a thread of its own: a process that is started here inherits what is blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
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
        for worker in workers:  # the pool asks them to end, and waits for those that do not hear
            worker.kill()
        raise ThothyError(
            "a worker process that renders and tokenises ended unexpectedly",
            hint="memory may have run out; see the lines above, or run with fewer jobs at once",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Any], workers: Sequence[BaseProcess]) -> Any:
    """Of a chunk. A worker that died in the middle of an answer leaves the pool waiting for the
    rest of it: BrokenProcessPool then, too."""
    while not future.done():
        futures.wait([future], timeout=_LOOK_S)
        if not future.done() and any(worker.exitcode is not None for worker in workers):
            futures.wait([future], timeout=_LOOK_S)  # the pool may have noticed meanwhile
            if not future.done():
                raise BrokenProcessPool("a worker is gone")
    return future.result()


def _start_worker(make_worker: Callable[[], Callable[[list[Any]], Any]]) -> None:
    global _work  # noqa: PLW0603  (one value per process, as the pool offers no other place)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_heed_parent_alone, daemon=True).start()
    _work = make_worker()


def _run_chunk(chunk: list[Any]) -> Any:
    assert _work is not None
    return _work(chunk)


def _heed_parent_alone() -> None:
    """Ctrl-C, a hangup and a service manager's SIGTERM reach the whole process group; the parent
    decides what they mean. All of them are blocked here since the start: a worker that dies in the
    middle of an answer leaves the parent waiting for the rest. But by SIGTERM a broken pool ends
    its other workers."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(1)


def _end_with_parent() -> None:
    """A worker waits on a queue whose other end it holds itself: the parent's death would not wake
    it. This thread does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
