"""What the scheduler decides: one batch, and for how many steps it holds."""

from array import array
from dataclasses import dataclass, field

from thothy_batch.engine.block_manager import BlockDraft
from thothy_batch.engine.sequence import Sequence


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's part in a step: tokens `start` to `start + num_tokens`."""

    seq: Sequence
    start: int  # of the span's first step
    num_tokens: int  # of every step
    num_rows: int  # rows of logits: 0 amid a prompt, one per sample at its end, else 1
    block_ids: "array[int]"  # the table at the span's end
    num_taken: int = 0  # blocks that the table has more than before
    shared_tokens: int = 0  # found in the prefix cache at admission
    num_reserved: int = 0  # blocks that admission sets aside beyond the table


@dataclass(slots=True)
class Span:
    """One batch and the number of decode steps it holds for; nothing of it is in force yet.

    In every further step each sequence computes the token that the step before gave it. Valid
    until the scheduler's state changes by anything but its own commits.
    """

    entries: list[ScheduledSequence]
    num_steps: int
    admitted: list[Sequence]
    preempted: list[Sequence]  # youngest first
    copies: list[tuple[int, int]]  # blocks (from, to), to be copied before the first step
    draft: BlockDraft
    num_done: int = field(default=0)  # steps that were committed

    @property
    def is_over(self) -> bool:
        return self.num_done >= self.num_steps


@dataclass(slots=True)
class StepOutcome:
    """What one committed step came to."""

    finished: list[Sequence] = field(default_factory=list)
    prefill_tokens: int = 0  # prompt tokens computed for the first time
    cached_tokens: int = 0  # prompt tokens that did not have to be computed
    recomputed_tokens: int = 0
    decode_tokens: int = 0  # computed tokens that lie behind the prompt
    output_tokens: int = 0  # tokens drawn
    num_preempted: int = 0
    num_started: int = 0  # requests whose first token was computed
