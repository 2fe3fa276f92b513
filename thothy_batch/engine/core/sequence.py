"""Sequences: a request within the engine, one sequence per sample, with tokens and blocks."""

from array import array
from collections import abc
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt

from thothy_batch.engine.core.rope_choice import rope_offset_of
from thothy_batch.records import Completion, FinishReason, Request, RequestResult, SharedPrefix

_SEED_STEP = 0x9E3779B97F4A7C15  # odd: the seeds of all samples of a request differ
_SEED_BITS = (1 << 63) - 1
_NO_BLOCK = -1


class SequenceStatus(StrEnum):
    """Life cycle: waiting → running → finished; preemption leads from running back to waiting."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class Clock:
    """Decode steps so far. Every decoding sequence gains one token per step."""

    steps: int = 0


@dataclass(slots=True)
class RequestState:
    """State of a request across its samples: token counts, times, completions."""

    request: Request
    num_unfinished: int  # samples
    completions: list[Completion | None]
    cached_prompt_tokens: int = 0
    wasted_tokens: int = 0
    output_tokens: int = 0  # of finished samples
    started_at: float | None = None  # first computed token, in seconds since engine ready
    finished_at: float = 0.0  # last token
    is_counted: bool = False  # as an admitted reader of its planned prefixes
    skips_prefixes: bool = False  # the pool is too small to also hold its planned prefixes

    @classmethod
    def of(cls, request: Request) -> "RequestState":
        return cls(request, request.num_samples, [None] * request.num_samples)

    @property
    def prefixes(self) -> tuple[SharedPrefix, ...]:
        """The planned prefixes that it reads or computes for later readers."""
        return () if self.skips_prefixes else self.request.prefixes or ()

    def result(self) -> RequestResult:
        """Return the result. All samples must be finished."""
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

    `tables`: a block table per layer group; entry i holds positions from i * block_size on, -1
    once the window has slid past it. `spare`: blocks of each group reserved for this sequence.
    While it decodes, `num_tokens` and all counts derived from it advance with the clock.
    """

    state: RequestState
    sample: int
    seed: int
    prompt_len: int
    max_len: int  # prompt + max_tokens
    expected_len: int  # prompt and output that admission reserves blocks for
    num_unforked: int  # samples still to be forked when this sequence's prompt is computed
    clock: Clock
    rope_offset: int = 0  # see `rope_offset_of`
    status: SequenceStatus = SequenceStatus.WAITING
    output_ids: "array[int]" = field(default_factory=lambda: array("i"))
    num_prefilled: int = 0  # tokens computed, while it does not decode
    num_known: int = 0  # tokens of prompt and output when it last started or stopped decoding
    joined_at: int | None = None  # the clock's steps when it started decoding; else None
    num_ever_computed: int = 0  # most tokens computed or shared before a preemption
    tables: tuple["array[int]", ...] = ()
    spare: tuple[list[int], ...] = ()
    finish_reason: FinishReason | None = None
    _hashes: list[bytes] = field(default_factory=list)

    @classmethod
    def first_of(
        cls, request: Request, clock: Clock, short_rope_len: int | None = None
    ) -> "Sequence":
        """Create the sequence that computes the prompt of a request."""
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
            rope_offset=rope_offset_of(request, short_rope_len),
            num_known=prompt_len,
        )

    def fork(self, sample: int) -> "Sequence":
        """Create another sample that continues after the prompt; it has no blocks yet."""
        return Sequence(
            state=self.state,
            sample=sample,
            seed=self.seed_of(sample),
            prompt_len=self.prompt_len,
            max_len=self.max_len,
            expected_len=self.expected_len,
            num_unforked=0,
            clock=self.clock,
            rope_offset=self.rope_offset,
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
        """Tokens of prompt and output, counted at launch."""
        if self.joined_at is None:
            return self.num_known
        return self.num_known + self.clock.steps - self.joined_at

    @property
    def num_computed(self) -> int:
        """Tokens with KV in the pool; while decoding, all but the last."""
        return self.num_prefilled if self.joined_at is None else self.num_tokens - 1

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.prompt_len

    @property
    def num_slots(self) -> int:
        """Sequences this one becomes, its forks included."""
        return 1 + self.num_unforked

    @property
    def last_token(self) -> int:
        return self.output_ids[-1] if self.output_ids else self.state.request.prompt_token_ids[-1]

    def start_decoding(self) -> None:
        """Advance with the clock from now on. All tokens but the last must be computed."""
        self.joined_at = self.clock.steps

    def accept_drafted(self, num_tokens: int) -> None:
        """Count accepted draft tokens, beyond the one per step that the clock counts."""
        self.stop_decoding()
        self.num_known += num_tokens
        self.num_prefilled += num_tokens
        self.start_decoding()

    def stop_decoding(self) -> None:
        """Freeze the counts at the clock's current step."""
        if self.joined_at is not None:
            self.num_known, self.num_prefilled = self.num_tokens, self.num_computed
            self.joined_at = None

    def seed_of(self, sample: int) -> int:
        """Return the seed of this sequence or of a sample forked from it."""
        return (self.seed + (sample - self.sample) * _SEED_STEP) & _SEED_BITS

    def tokens(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Return token ids of positions [start, end) of prompt and output, int32."""
        prompt = self.state.request.prompt_token_ids
        if end <= self.prompt_len:
            return np.asarray(prompt[start:end], np.int32)
        first = max(0, start - self.prompt_len)
        tail = self.output_ids[first : end - self.prompt_len]
        return np.fromiter(chain(prompt[start : self.prompt_len], tail), np.int32, end - start)

    def block_hash(self, index: int, block_size: int) -> bytes:
        """Return the chained hash of full block `index` and all blocks before it. Memoized.

        Keys of one text under another rope are others, and so are their hashes.
        """
        root = self.rope_offset.to_bytes(8, "little") if self.rope_offset else b""
        while len(self._hashes) <= index:
            start = len(self._hashes) * block_size
            parent = self._hashes[-1] if self._hashes else root
            block = self.tokens(start, start + block_size).tobytes()
            self._hashes.append(blake2b(parent + block, digest_size=16).digest())
        return self._hashes[index]

    def covered_len(self, block_size: int) -> int:
        """Return the tokens for which every layer group has a block."""
        return min(map(len, self.tables)) * block_size

    def drop_blocks(self) -> tuple[tuple[abc.Sequence[int], ...], tuple[list[int], ...]]:
        """Clear tables and spare blocks, and return them."""
        dropped = self.tables, self.spare
        self.tables, self.spare = (), ()
        return dropped


def live_blocks(table: abc.Sequence[int]) -> list[int]:
    """Return the blocks of a table that no window has slid past."""
    return [block_id for block_id in table if block_id != _NO_BLOCK]
