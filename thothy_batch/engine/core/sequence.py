"""A request within the engine: its sequences (one per sample), their tokens and their blocks."""

from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt

from thothy_batch.records import Completion, FinishReason, Request, RequestResult, SharedPrefix

_SEED_STEP = 0x9E3779B97F4A7C15  # odd: the seeds of all samples of a request differ
_SEED_BITS = (1 << 63) - 1
_NO_BLOCK = -1


class SequenceStatus(StrEnum):
    """waiting → running → finished; a preempted one goes from running back to waiting."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class Clock:
    """Decode steps so far. All decoding sequences move on with it, one token a step."""

    steps: int = 0


@dataclass(slots=True)
class RequestState:
    """What is known of a request beyond its sequences: cost, times, finished samples."""

    request: Request
    num_unfinished: int  # samples
    completions: list[Completion | None]
    cached_prompt_tokens: int = 0
    wasted_tokens: int = 0
    output_tokens: int = 0  # of finished samples
    started_at: float | None = None  # seconds since engine ready: its first computed token
    finished_at: float = 0.0  # its last token
    is_counted: bool = False  # as a reader of its planned prefixes
    is_loner: bool = False  # shares no planned prefix after all: the pool is too small for it

    @classmethod
    def of(cls, request: Request) -> "RequestState":
        return cls(request, request.num_samples, [None] * request.num_samples)

    @property
    def prefixes(self) -> tuple[SharedPrefix, ...]:
        """The planned prefixes that it reads or leaves for others."""
        return () if self.is_loner else self.request.prefixes or ()

    def result(self) -> RequestResult:
        """Once all samples are finished."""
        completions = tuple(each for each in self.completions if each is not None)
        assert len(completions) == self.request.num_samples
        started_at = self.started_at or 0.0
        return RequestResult(
            request_id=self.request.request_id,
            completions=completions,
            prompt_tokens=len(self.request.prompt_token_ids),
            cached_prompt_tokens=self.cached_prompt_tokens,
            output_tokens=self.output_tokens,
            wasted_tokens=self.wasted_tokens,
            queue_s=started_at,
            engine_s=self.finished_at - started_at,
        )


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request. The first computes the prompt; the others are forked from it.

    `tables` has a block table for each layer group: block i holds positions i * block_size on, -1
    where a window has slid past it. `spare` has blocks of each group set aside for this sequence.
    While it decodes, `num_tokens` and so all counts move on with the clock.
    """

    state: RequestState
    sample: int
    seed: int
    prompt_len: int
    max_len: int  # prompt + max_tokens
    expected_len: int  # prompt and output that admission makes room for
    num_unforked: int  # samples that wait for this sequence's prompt
    clock: Clock
    status: SequenceStatus = SequenceStatus.WAITING
    output_ids: "array[int]" = field(default_factory=lambda: array("i"))
    num_prefilled: int = 0  # tokens computed, while it does not decode
    num_known: int = 0  # tokens of prompt and output when it last started or stopped to decode
    joined_at: int | None = None  # decode steps on the clock when it began to decode; else None
    num_ever_computed: int = 0  # the most that was computed, or shared, before a preemption
    tables: tuple["array[int]", ...] = ()
    spare: tuple[list[int], ...] = ()
    finish_reason: FinishReason | None = None
    _hashes: list[bytes] = field(default_factory=list)

    @classmethod
    def first_of(cls, request: Request, clock: Clock) -> "Sequence":
        """The sequence that computes the prompt of a request."""
        prompt_len = len(request.prompt_token_ids)
        max_tokens = request.sampling.max_tokens
        expected = max_tokens if request.sampling.ignore_eos else request.expected_tokens
        if expected is None or expected > max_tokens:
            expected = max_tokens
        return cls(
            state=RequestState.of(request),
            sample=0,
            seed=request.seed & _SEED_BITS,
            prompt_len=prompt_len,
            max_len=prompt_len + max_tokens,
            expected_len=prompt_len + max(1, expected),
            num_unforked=request.num_samples - 1,
            clock=clock,
            num_known=prompt_len,
        )

    def fork(self, sample: int) -> "Sequence":
        """Another sample that goes on behind the prompt; it has no blocks yet."""
        return Sequence(
            state=self.state,
            sample=sample,
            seed=self.seed_of(sample),
            prompt_len=self.prompt_len,
            max_len=self.max_len,
            expected_len=self.expected_len,
            num_unforked=0,
            clock=self.clock,
            status=self.status,
            num_prefilled=self.num_prefilled,
            num_known=self.num_known,
            num_ever_computed=self.num_ever_computed,
            _hashes=list(self._hashes),
        )

    @property
    def is_decoding(self) -> bool:
        return self.joined_at is not None

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output that are known."""
        if self.joined_at is None:
            return self.num_known
        return self.num_known + self.clock.steps - self.joined_at

    @property
    def num_computed(self) -> int:
        """Tokens whose KV is there. In decode all but the last."""
        return self.num_prefilled if self.joined_at is None else self.num_tokens - 1

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.prompt_len

    @property
    def num_slots(self) -> int:
        """How many sequences this one becomes."""
        return 1 + self.num_unforked

    @property
    def last_token(self) -> int:
        return self.output_ids[-1] if self.output_ids else self.state.request.prompt_token_ids[-1]

    def join(self) -> None:
        """Begin to decode: all tokens but the last are computed."""
        self.joined_at = self.clock.steps

    def accept_drafted(self, num_tokens: int) -> None:
        """It drew so many tokens more than the clock counted, and goes on behind them."""
        self.leave()
        self.num_known += num_tokens
        self.num_prefilled += num_tokens
        self.join()

    def leave(self) -> None:
        """Stop to decode; what is known and computed stays as it is now."""
        if self.joined_at is not None:
            self.num_known, self.num_prefilled = self.num_tokens, self.num_computed
            self.joined_at = None

    def seed_of(self, sample: int) -> int:
        """The seed of a sample that is forked from this sequence, or of this one itself."""
        return (self.seed + (sample - self.sample) * _SEED_STEP) & _SEED_BITS

    def tokens(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Token ids of prompt and output from position `start` to before `end`, int32."""
        prompt = self.state.request.prompt_token_ids
        if end <= self.prompt_len:
            return np.asarray(prompt[start:end], np.int32)
        first = max(0, start - self.prompt_len)
        tail = self.output_ids[first : end - self.prompt_len]
        return np.fromiter(chain(prompt[start : self.prompt_len], tail), np.int32, end - start)

    def block_hash(self, index: int, block_size: int) -> bytes:
        """Hash of the tokens of full block `index` and of all before it. Computed once."""
        while len(self._hashes) <= index:
            start = len(self._hashes) * block_size
            parent = self._hashes[-1] if self._hashes else b""
            block = self.tokens(start, start + block_size).tobytes()
            self._hashes.append(blake2b(parent + block, digest_size=16).digest())
        return self._hashes[index]

    def covered_len(self, block_size: int) -> int:
        """Tokens for which every layer group has a block."""
        return min(map(len, self.tables)) * block_size

    def drop_blocks(self) -> tuple[tuple[Seq[int], ...], tuple[list[int], ...]]:
        """Forget tables and spare blocks; returns them."""
        dropped = self.tables, self.spare
        self.tables, self.spare = (), ()
        return dropped


def live_blocks(table: Seq[int]) -> list[int]:
    """The blocks of a table that no window has slid past."""
    return [block_id for block_id in table if block_id != _NO_BLOCK]
