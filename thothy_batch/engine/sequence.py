"""A request within the engine: its sequences (one per sample), their tokens and their blocks."""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from thothy_batch.records import Completion, FinishReason, Request

_SEED_STEP = 0x9E3779B97F4A7C15  # odd: the seeds of all samples of a request differ
_SEED_BITS = (1 << 63) - 1


class SequenceStatus(StrEnum):
    """waiting → running → finished; a preempted one goes from running back to waiting."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


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

    @classmethod
    def of(cls, request: Request) -> "RequestState":
        return cls(request, request.num_samples, [None] * request.num_samples)


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request. The first computes the prompt; the others are forked from it.

    `token_ids` is prompt and output; the KV of the first `num_computed` of them lies in the
    blocks of `block_ids`, which may reach further than that (taken ahead for a span).
    """

    state: RequestState
    sample: int
    seed: int
    token_ids: "array[int]"
    prompt_len: int
    max_len: int  # prompt + max_tokens
    num_unforked: int  # samples that wait for this sequence's prompt
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    num_ever_computed: int = 0  # the most that `num_computed` or a shared prefix ever reached
    num_reserved: int = 0  # blocks that admission set aside and that are not taken yet
    block_ids: "array[int]" = field(default_factory=lambda: array("i"))
    # A fork's last block is its origin's until the fork writes: then it is copied first.
    borrows_last_block: bool = False
    finish_reason: FinishReason | None = None
    _hashes: list[bytes] = field(default_factory=list)

    @classmethod
    def first_of(cls, request: Request) -> "Sequence":
        """The sequence that computes the prompt of a request."""
        tokens = array("i", request.prompt_token_ids)
        return cls(
            state=RequestState.of(request),
            sample=0,
            seed=request.seed & _SEED_BITS,
            token_ids=tokens,
            prompt_len=len(tokens),
            max_len=len(tokens) + request.sampling.max_tokens,
            num_unforked=request.num_samples - 1,
        )

    def fork(self, sample: int) -> "Sequence":
        """Another sample that goes on from here, with the same blocks (not yet counted there)."""
        return Sequence(
            state=self.state,
            sample=sample,
            seed=self.seed_of(sample),
            token_ids=array("i", self.token_ids),
            prompt_len=self.prompt_len,
            max_len=self.max_len,
            num_unforked=0,
            status=self.status,
            num_computed=self.num_computed,
            num_ever_computed=self.num_ever_computed,
            block_ids=array("i", self.block_ids),
            _hashes=list(self._hashes),
        )

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose KV is missing: 1 in decode, more in prefill and recompute."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.prompt_len

    @property
    def num_slots(self) -> int:
        """How many sequences this one becomes."""
        return 1 + self.num_unforked

    def seed_of(self, sample: int) -> int:
        """The seed of a sample that is forked from this sequence, or of this one itself."""
        return (self.seed + (sample - self.sample) * _SEED_STEP) & _SEED_BITS

    @property
    def output_ids(self) -> "array[int]":
        return self.token_ids[self.prompt_len :]

    def block_hash(self, index: int, block_size: int) -> bytes:
        """Hash of the tokens of full block `index` and of all before it. Computed once."""
        while len(self._hashes) <= index:
            start = len(self._hashes) * block_size
            parent = self._hashes[-1] if self._hashes else b""
            block = self.token_ids[start : start + block_size].tobytes()
            self._hashes.append(blake2b(parent + block, digest_size=16).digest())
        return self._hashes[index]
