"""Scheduled batch: the scheduler's decision, one batch and the number of steps it is valid for."""

from dataclasses import dataclass, field

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import Copy, PreparedBlocks
from thothy_batch.engine.scheduling.decode_set import DecodeSet


@dataclass(slots=True)
class PrefillChunk:
    """A sequence's tokens [start, start + num_tokens), computed in the batch's only step."""

    seq: Sequence
    start: int
    num_tokens: int
    num_rows: int  # rows of logits: 0 within a prompt, one per sample at its end
    prepared: PreparedBlocks


@dataclass(slots=True)
class ScheduledBatch:
    """Every decoding sequence with one token, or one and a draft, then chunks of prompts.

    A batch with chunks lasts one step. It is valid until the scheduler's state changes by anything
    but its own steps; if its first step fails it must be rolled back.
    """

    decoding: DecodeSet
    chunks: list[PrefillChunk] = field(default_factory=list)
    num_steps: int = 1  # until a sequence ends or needs a block
    max_steps: int = 1  # until a sequence needs a block; a device masks those that end before
    admitted: list[Sequence] = field(default_factory=list)
    num_preempted: int = 0  # includes those of batches that were rolled back before
    preempted: list[Sequence] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)  # before the first step
    num_done: int = 0  # committed steps
    # Tokens to verify after a sequence's own, in a batch of one step without chunks.
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    # No decision: a sequence lacks a block, and preemption needs the tokens that are in flight.
    is_short: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.chunks and not len(self.decoding)

    @property
    def is_over(self) -> bool:
        return self.num_done >= self.num_steps

    @property
    def num_drafted(self) -> int:
        return sum(map(len, self.drafts.values()))

    def with_drafts(self, drafts: dict[Sequence, list[int]]) -> "ScheduledBatch":
        """Return this batch, or one that replaces its remaining steps, as a step with drafts."""
        if self.num_done:
            return ScheduledBatch(self.decoding, drafts=drafts)
        self.drafts, self.num_steps = drafts, 1
        return self


@dataclass(slots=True)
class StepStats:
    """Token counts of committed steps."""

    joined: list[Sequence] = field(default_factory=list)  # drew the first token after a prefill
    prefill_tokens: int = 0  # prompt tokens computed for the first time
    cached_tokens: int = 0  # prompt tokens read from shared blocks
    recomputed_tokens: int = 0
    overrun_tokens: int = 0  # drawn past the end of their sequence
    decode_tokens: int = 0  # computed tokens after the prompt
    output_tokens: int = 0  # drawn tokens
    num_steps: int = 0
    num_preempted: int = 0
    num_started: int = 0  # requests whose first token was computed
    drafted_tokens: int = 0  # verified, accepted or not
    accepted_tokens: int = 0  # accepted drafts: output tokens beyond one per sequence

    def count_chunk(self, chunk: PrefillChunk) -> None:
        """Count a computed chunk and advance its sequence."""
        seq, start = chunk.seq, chunk.start
        end = seq.num_prefilled = start + chunk.num_tokens
        recomputed = max(0, min(end, seq.num_ever_computed) - start)
        self.recomputed_tokens += recomputed
        seq.state.wasted_tokens += recomputed
        start += recomputed
        prefill = max(0, min(end, seq.prompt_len) - start)
        self.prefill_tokens += prefill
        self.decode_tokens += end - start - prefill

    def count_accepted(self, num_tokens: int) -> None:
        """Count accepted draft tokens, beyond the one token per sequence."""
        self.accepted_tokens += num_tokens
        self.output_tokens += num_tokens
        self.decode_tokens += num_tokens

    def count_overrun(self, num_tokens: int) -> None:
        """Turn counted output tokens into wasted ones."""
        self.subtract(num_tokens)
        self.overrun_tokens += num_tokens

    def subtract(self, num_tokens: int) -> None:
        """Subtract decode tokens that were counted but never drawn."""
        self.output_tokens -= num_tokens
        self.decode_tokens -= num_tokens
