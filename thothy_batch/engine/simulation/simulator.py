"""The scheduler on a simulated device: the cost model in place of tensors, seconds in no time.

Everything but the forward pass is the real thing: queues, blocks, kept prefixes, spans. A span is
charged in one go up to the next sequence that ends, so that a million requests, hundreds of
millions of row-steps, take a minute.
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

# Output tokens of a request's sample: what the model would have made.
OutputLen = Callable[[Request, int], int]

_FEED = 256  # requests queued at a time


@dataclass(slots=True)
class Simulated:
    """What a simulated night came to. Times in seconds of the simulated device."""

    seconds: float = 0.0
    num_requests: int = 0
    num_spans: int = 0
    num_steps: int = 0
    num_prompt_steps: int = 0  # those with parts of prompts
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


class Simulation:
    """Runs requests, in the order given, on a device that `cost` describes.

    Every request must fit the pool. `check`: assert the integrity of all books after every span.
    """

    def __init__(
        self,
        config: EngineConfig,
        cost: CostModel,
        *,
        output_len: OutputLen = max_tokens_of,
        check: bool = False,
    ) -> None:
        self._config = config
        self._cost = cost
        self._output_len = output_len
        self._check = check
        self._by_content = config.prefix_sharing
        self._scheduler = _scheduler(config, by_content=True)
        self._ends: list[tuple[int, int, Sequence, int | None]] = []
        self._num_ends = 0
        self._context = 0  # sum of the decoding rows' lengths
        self._saved = 0  # positions of it that are read once for several rows
        self._grouped: list[Sequence] = []
        self._parked: list[Sequence] = []  # drew their first token, but no step has room for them
        self.result = Simulated()
        self.finished_s: Callable[[Sequence, float], None] | None = None

    def run(self, requests: Iterable[Request]) -> Simulated:
        """Until the last request has ended. A collection is looked at beforehand: where no request
        will ever look for content, no block is hashed."""
        if isinstance(requests, Collection) and not self._looks_for_content(requests):
            self._by_content = False
            self._scheduler = _scheduler(self._config, by_content=False)
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

    def _looks_for_content(self, requests: Collection[Request]) -> bool:
        """Whether a request is not planned, or might be preempted."""
        if self._config.admission == "optimistic":
            return True
        return any(request.prefixes is None or not _is_exact(request) for request in requests)

    def _feed(self, requests: Iterator[Request]) -> None:
        """Keep enough queued that the scheduler never lacks choice."""
        if self._scheduler.num_waiting >= self._config.max_seqs:
            return
        for request in islice(requests, max(_FEED, self._config.max_seqs)):
            seq = self._scheduler.sequence_of(request)
            assert self._scheduler.fits(seq), f"request {request.request_id} can never run"
            self._scheduler.add(seq)
            self.result.num_requests += 1

    def _compute(self, span: ScheduledBatch) -> None:
        """Charge a span, or as much of it as passes before a sequence ends."""
        result, num_decode = self.result, len(span.decoding)
        if self._parked:
            self._unpark()
        if span.num_preempted:
            self._context = sum(seq.num_tokens for seq in span.decoding)
        num_steps = 1 if span.chunks else min(span.num_steps, self._steps_to_end())
        result.seconds += self._cost.step_s(self._work(span, num_decode, num_steps))
        result.num_spans += 1
        result.num_steps += num_steps
        result.num_prompt_steps += bool(span.chunks)
        result.peak_running = max(result.peak_running, self._scheduler.num_running)
        result.peak_blocks = max(result.peak_blocks, self._scheduler.blocks_used)
        outcome = self._scheduler.commit(span, num_steps, result.seconds)
        self._context += num_decode * num_steps
        finished = self._joined(outcome) + self._ended()
        for seq in finished:
            self._context -= seq.num_tokens
            if self.finished_s is not None:
                self.finished_s(seq, result.seconds)
        self._scheduler.finish(finished)
        result.prefill_tokens += outcome.prefill_tokens
        result.cached_prompt_tokens += outcome.cached_tokens
        result.output_tokens += outcome.output_tokens
        result.wasted_tokens += outcome.recomputed_tokens
        result.num_preempted += outcome.num_preempted

    def _work(self, span: ScheduledBatch, num_decode: int, num_steps: int) -> StepWork:
        num_tokens, num_sampled, pairs = num_decode, num_decode, 0
        for part in span.chunks:
            n = part.num_tokens
            num_tokens += n
            num_sampled += part.num_rows
            pairs += n * part.start + n * (n + 1) // 2
        if self._config.prefix_sharing:
            self._group(span)
        return StepWork(
            num_tokens=num_tokens,
            num_sampled=num_sampled,
            decode_context=self._context - self._saved,
            num_decode=num_decode,
            prefill_pairs=pairs,
            num_steps=num_steps,
            shared_pairs=self._saved,
        )

    def _group(self, span: ScheduledBatch) -> None:
        """What groups of rows read once, counted again when somebody came or went."""
        rows = span.decoding.sharing_seqs
        if rows is not self._grouped:
            block_size = self._config.block_size
            groups = attention_groups([prefix_path(seq, block_size) for seq in rows])
            self._saved = sum((end - first - 1) * (stop - at) for first, end, at, stop in groups)
            self._grouped = rows

    def _joined(self, outcome: StepStats) -> list[Sequence]:
        """Take note when those who drew their first token will end; who ends with it already."""
        finished = []
        for seq in outcome.joined:
            left = self._left(seq)
            if self._by_content and not seq.output_ids:
                # Whoever is preempted is known by its tokens: any will do that others do not have.
                seq.output_ids = array("i", [_mark(seq)]) * (seq.num_output + max(0, left))
            if left <= 0:
                self._context += seq.num_tokens
                finished.append(seq)
            elif seq.is_decoding:
                self._foresee(seq)
            else:
                self._parked.append(seq)
        return finished

    def _unpark(self) -> None:
        """Those who decode now; who was preempted meanwhile comes back as somebody new."""
        parked, self._parked = self._parked, []
        for seq in parked:
            if seq.is_decoding:
                self._foresee(seq)
            elif seq.status is SequenceStatus.RUNNING:
                self._parked.append(seq)

    def _foresee(self, seq: Sequence) -> None:
        """Count a row that begins to decode, and note when it ends."""
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
    """Without the search for cyclic garbage. The simulation makes none, and of a million requests
    it took a third of the time, since it goes through all that wait again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _scheduler(config: EngineConfig, *, by_content: bool) -> Scheduler:
    return Scheduler(config, prefix_lookup=by_content)


def _mark(seq: Sequence) -> int:
    """An output token that no other sequence has."""
    return -1 - hash((seq.state.request.request_id, seq.sample)) % (1 << 31)


def _is_exact(request: Request) -> bool:
    """Whether admission makes room for all that the request may come to."""
    expected, sampling = request.expected_tokens, request.sampling
    return sampling.ignore_eos or expected is None or expected >= sampling.max_tokens
