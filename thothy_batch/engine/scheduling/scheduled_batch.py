"""What the scheduler decides: one batch, and for how many steps it holds."""

from dataclasses import dataclass, field

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import Copy, PreparedBlocks
from thothy_batch.engine.scheduling.decode_set import DecodeSet


@dataclass(slots=True)
class PrefillChunk:
    """A sequence's tokens `start` to `start + num_tokens`, computed in a span's first step."""

    seq: Sequence
    start: int
    num_tokens: int
    num_rows: int  # rows of logits: 0 amid a prompt, one per sample at its end
    covered: PreparedBlocks


@dataclass(slots=True)
class ScheduledBatch:
    """One batch: every decoding sequence with one token, or a draft behind it, then parts of
    prompts.

    A span with parts of prompts is one step long. Valid until the scheduler's state changes by
    anything but the span's own steps. Where its first step failed it has to be abandoned.
    """

    decoding: DecodeSet
    parts: list[PrefillChunk] = field(default_factory=list)
    num_steps: int = 1  # until somebody ends, or needs a block
    max_steps: int = 1  # until somebody needs a block: who ends before, on a device, is left out
    admitted: list[Sequence] = field(default_factory=list)
    num_preempted: int = 0  # those of abandoned spans before it among them
    preempted: list[Sequence] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)  # before the first step
    num_done: int = 0  # steps that were counted
    # Tokens that rows verify behind their own, in a span of one step without parts of prompts.
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not self.parts and not len(self.decoding)

    @property
    def is_over(self) -> bool:
        return self.num_done >= self.num_steps

    @property
    def num_drafted(self) -> int:
        return sum(map(len, self.drafts.values()))

    def drafting(self, drafts: dict[Sequence, list[int]]) -> "ScheduledBatch":
        """This span, or one in place of what is left of it: a step that verifies drafts."""
        if self.num_done:
            return ScheduledBatch(self.decoding, drafts=drafts)
        self.drafts, self.num_steps = drafts, 1
        return self


@dataclass(slots=True)
class StepStats:
    """What counted steps came to."""

    joined: list[Sequence] = field(default_factory=list)  # began to decode, or drew one token
    prefill_tokens: int = 0  # prompt tokens computed for the first time
    cached_tokens: int = 0  # prompt tokens that did not have to be computed
    recomputed_tokens: int = 0
    overrun_tokens: int = 0  # drawn behind the end of their sequence
    decode_tokens: int = 0  # computed tokens that lie behind the prompt
    output_tokens: int = 0  # tokens drawn
    num_steps: int = 0
    num_preempted: int = 0
    num_started: int = 0  # requests whose first token was computed
    drafted_tokens: int = 0  # verified, right or wrong
    accepted_tokens: int = 0  # of them those that were right: output tokens beyond one a row

    def count(self, part: PrefillChunk) -> None:
        """A part of a prompt was computed."""
        seq, start = part.seq, part.start
        end = seq.num_prefilled = start + part.num_tokens
        recomputed = max(0, min(end, seq.num_ever_computed) - start)
        self.recomputed_tokens += recomputed
        seq.state.wasted_tokens += recomputed
        start += recomputed
        prefill = max(0, min(end, seq.prompt_len) - start)
        self.prefill_tokens += prefill
        self.decode_tokens += end - start - prefill

    def forget(self, num_tokens: int) -> None:
        """Decode rows drew fewer tokens than was counted."""
        self.output_tokens -= num_tokens
        self.decode_tokens -= num_tokens

    def waste(self, num_tokens: int) -> None:
        """Drawn tokens are of no use."""
        self.forget(num_tokens)
        self.overrun_tokens += num_tokens

    def accept(self, num_tokens: int) -> None:
        """A row drew so many tokens more than the one that was counted."""
        self.accepted_tokens += num_tokens
        self.output_tokens += num_tokens
        self.decode_tokens += num_tokens
