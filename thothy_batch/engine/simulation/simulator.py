"""The real scheduler on a simulated device: the cost model in place of the forward pass.

Queues, blocks, pinned prefixes and scheduled batches are the engine's own. A batch of several
steps is charged at once up to the next sequence that ends, so a million requests, hundreds of
millions of decode steps of one sequence each, are simulated in a minute.
"""

import gc
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence, SequenceStatus
from thothy_batch.engine.cost.cost_model import CostModel, StepWork
from thothy_batch.engine.execution.prefix_groups import attention_groups, prefix_path
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch, StepStats
from thothy_batch.engine.scheduling.scheduler import Scheduler
from thothy_batch.records import Request

# Output tokens that the model would have produced for a sample of a request.
OutputLen = Callable[[Request, int], int]
# Called with each sequence that ends, and the seconds since the run began.
OnFinished = Callable[[Sequence, float], None]

_FEED = 256  # requests queued at a time


@dataclass(slots=True)
class Simulated:
    """Totals of a simulated run. Times in seconds of the simulated device."""

    seconds: float = 0.0
    num_requests: int = 0
    num_batches: int = 0  # as scheduled, each of one step or several
    num_steps: int = 0
    num_prompt_steps: int = 0  # those with prefill chunks
    prefill_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    num_preempted: int = 0
    peak_blocks: int = 0
    peak_running: int = 0


def max_tokens_of(request: Request, sample: int) -> int:
    """The output length of a request whose length is exact."""
    return request.sampling.max_tokens


class Simulator:
    """Runs requests, in the order given, on a device that `cost` describes.

    Every request must fit the pool. `check`: assert the scheduler's integrity after every batch.
    """

    def __init__(
        self,
        config: EngineConfig,
        cost: CostModel,
        *,
        output_len: OutputLen = max_tokens_of,
        on_finished: OnFinished | None = None,
        check: bool = False,
    ) -> None:
        self._config = config
        self._cost = cost
        self._output_len = output_len
        self._on_finished = on_finished
        self._check = check
        self._prefix_lookup = config.prefix_sharing
        self._scheduler = Scheduler(config)
        self._ends: list[tuple[int, int, Sequence, int | None]] = []
        self._num_ends = 0
        self._context = 0  # tokens of all decoding sequences
        self._saved = 0  # of them those whose KV is read once for several sequences
        self._grouped: list[Sequence] = []
        self._parked: list[Sequence] = []  # have their first token, but no step has room for them
        self.result = Simulated()

    def run(self, requests: Iterable[Request]) -> Simulated:
        """Run until the last request has finished. A collection is examined first: where no request
        will ever look up content, no block is hashed."""
        if isinstance(requests, Collection) and not self._needs_prefix_lookup(requests):
            self._prefix_lookup = False
            self._scheduler = Scheduler(self._config, prefix_lookup=False)
        with _no_cycle_search():
            self._run(iter(requests))
        return self.result

    def _run(self, waiting: Iterator[Request]) -> None:
        self._feed(waiting)
        while self._scheduler.has_work:
            self._compute(self._scheduler.schedule())
            if self._check:
                self._scheduler.check_integrity()
            self._feed(waiting)

    def _needs_prefix_lookup(self, requests: Collection[Request]) -> bool:
        """True if a request is not planned, or might be preempted."""
        if self._config.admission == "optimistic":
            return True
        return any(request.prefixes is None or not _is_exact(request) for request in requests)

    def _feed(self, requests: Iterator[Request]) -> None:
        """Keep enough queued that the scheduler always has a choice."""
        if self._scheduler.num_waiting >= self._config.max_seqs:
            return
        for request in islice(requests, max(_FEED, self._config.max_seqs)):
            seq = self._scheduler.sequence_of(request)
            assert self._scheduler.fits(seq), f"request {request.request_id} can never run"
            self._scheduler.add(seq)
            self.result.num_requests += 1

    def _compute(self, batch: ScheduledBatch) -> None:
        """Charge the steps of a batch that pass before a sequence ends."""
        result, num_decode = self.result, len(batch.decoding)
        if self._parked:
            self._resume()
        if batch.num_preempted:
            self._context = sum(seq.num_tokens for seq in batch.decoding)
        num_steps = 1 if batch.chunks else min(batch.num_steps, self._steps_to_end())
        result.seconds += self._cost.step_s(self._work(batch, num_decode, num_steps))
        result.num_batches += 1
        result.num_steps += num_steps
        result.num_prompt_steps += bool(batch.chunks)
        result.peak_running = max(result.peak_running, self._scheduler.num_running)
        result.peak_blocks = max(result.peak_blocks, self._scheduler.blocks_used)
        stats = self._scheduler.commit(batch, num_steps, result.seconds)
        self._context += num_decode * num_steps
        finished = self._joined(stats) + self._ended()
        for seq in finished:
            self._context -= seq.num_tokens
            if self._on_finished is not None:
                self._on_finished(seq, result.seconds)
        self._scheduler.finish(finished)
        result.prefill_tokens += stats.prefill_tokens
        result.cached_prompt_tokens += stats.cached_tokens
        result.output_tokens += stats.output_tokens
        result.wasted_tokens += stats.recomputed_tokens
        result.num_preempted += stats.num_preempted

    def _work(self, batch: ScheduledBatch, num_decode: int, num_steps: int) -> StepWork:
        num_tokens, num_sampled, pairs = num_decode, num_decode, 0
        for chunk in batch.chunks:
            n = chunk.num_tokens
            num_tokens += n
            num_sampled += chunk.num_rows
            pairs += n * chunk.start + n * (n + 1) // 2
        if self._config.prefix_sharing:
            self._group(batch)
        return StepWork(
            num_tokens=num_tokens,
            num_sampled=num_sampled,
            decode_context=self._context - self._saved,
            num_decode=num_decode,
            prefill_pairs=pairs,
            num_steps=num_steps,
            shared_pairs=self._saved,
        )

    def _group(self, batch: ScheduledBatch) -> None:
        """Count the tokens that groups of sequences read once, whenever the set changed."""
        seqs = batch.decoding.sharing_seqs
        if seqs is not self._grouped:
            block_size = self._config.block_size
            groups = attention_groups([prefix_path(seq, block_size) for seq in seqs])
            self._saved = sum((end - first - 1) * (stop - at) for first, end, at, stop in groups)
            self._grouped = seqs

    def _joined(self, stats: StepStats) -> list[Sequence]:
        """Schedule the ends of sequences that have their first token; returns those that end with
        it."""
        finished = []
        for seq in stats.joined:
            left = self._left(seq)
            if self._prefix_lookup and not seq.output_ids:
                # A preempted sequence is found again by its tokens: any will do that no other has.
                seq.output_ids = array("i", [_mark(seq)]) * (seq.num_output + max(0, left))
            if left <= 0:
                self._context += seq.num_tokens
                finished.append(seq)
            elif seq.is_decoding:
                self._schedule_end(seq)
            else:
                self._parked.append(seq)
        return finished

    def _resume(self) -> None:
        """Register sequences that began decoding; a preempted one re-enters as a new one."""
        parked, self._parked = self._parked, []
        for seq in parked:
            if seq.is_decoding:
                self._schedule_end(seq)
            elif seq.status is SequenceStatus.RUNNING:
                self._parked.append(seq)

    def _schedule_end(self, seq: Sequence) -> None:
        """Count a sequence that begins to decode, and schedule its end."""
        self._context += seq.num_tokens
        self._num_ends += 1
        due = self._scheduler.clock.steps + self._left(seq)
        heappush(self._ends, (due, self._num_ends, seq, seq.joined_at))

    def _left(self, seq: Sequence) -> int:
        return self._output_len(seq.state.request, seq.sample) - seq.num_output

    def _steps_to_end(self) -> int:
        """Decode steps until the next sequence ends."""
        while self._ends:
            due, _, seq, joined_at = self._ends[0]
            if seq.joined_at == joined_at:
                return due - self._scheduler.clock.steps
            heappop(self._ends)  # it was preempted meanwhile
        return 1

    def _ended(self) -> list[Sequence]:
        finished = []
        while self._ends and self._steps_to_end() <= 0:
            finished.append(heappop(self._ends)[2])
        return finished


@contextmanager
def _no_cycle_search() -> Iterator[None]:
    """Disable the search for cyclic garbage. The simulation makes none, and with a million
    requests the search took a third of the time: it visits all waiting ones again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _mark(seq: Sequence) -> int:
    """An output token that no other sequence has."""
    return -1 - hash((seq.state.request.request_id, seq.sample)) % (1 << 31)


def _is_exact(request: Request) -> bool:
    """True if admission reserves blocks for the longest output that the request may have."""
    expected, sampling = request.expected_tokens, request.sampling
    return sampling.ignore_eos or expected is None or expected >= sampling.max_tokens
