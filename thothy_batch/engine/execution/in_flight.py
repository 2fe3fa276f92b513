"""In-flight launches: launched steps whose tokens have not been read yet."""

from collections.abc import Callable
from dataclasses import dataclass, field

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.execution.launcher import StepTokens
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch, StepStats
from thothy_batch.engine.speculative.prompt_lookup import num_accepted
from thothy_batch.errors import EngineError
from thothy_batch.records import FinishReason


@dataclass(frozen=True, slots=True)
class Launch:
    """Steps of a batch that were launched together."""

    batch: ScheduledBatch
    num_steps: int
    drawn: StepTokens
    started_at: float  # seconds since engine ready


@dataclass(frozen=True, slots=True)
class InFlight:
    """A committed launch. `seqs`: sequences that draw, in the order of the tokens."""

    launch: Launch
    seqs: list[Sequence]
    stats: StepStats
    # Steps of the launch past a sequence's last one: nothing was computed for it.
    idle_steps: dict[Sequence, int] = field(default_factory=dict)

    def mask_ended(self) -> list[Sequence]:
        """Subtract steps past the sequences' length limits; returns the sequences that reached it.

        Only for the last launch of a batch.
        """
        ended = [seq for seq in self.seqs if seq.num_tokens >= seq.max_len]
        for seq in ended:
            if num_idle := seq.num_tokens - seq.max_len:
                self.idle_steps[seq] = num_idle
        self.stats.subtract(sum(self.idle_steps.values()))
        return ended

    def read(self, finish_reason: Callable[[Sequence], FinishReason | None]) -> list[Sequence]:
        """Append the tokens to their sequences; returns the sequences that finished.

        Tokens sampled past a sequence's end are discarded and counted as wasted.
        """
        finished = []
        num_overrun = 0
        for seq, column in zip(self.seqs, self._columns(), strict=True):
            if seq in self.idle_steps:
                del column[len(column) - self.idle_steps[seq] :]
            if seq.finish_reason is not None:
                num_overrun += len(column)
                continue
            for number, token_id in enumerate(column, 1):
                if token_id < 0:
                    raise EngineError(
                        "the model's logits are not finite: no token can be drawn from them",
                        hint="its weights are damaged, or too large for engine.dtype",
                    )
                seq.output_ids.append(token_id)
                seq.finish_reason = finish_reason(seq)
                if seq.finish_reason is not None:
                    finished.append(seq)
                    # Draft tokens past an end were never counted.
                    num_overrun += 0 if self.launch.batch.drafts else len(column) - number
                    break
        self.stats.count_overrun(num_overrun)
        return finished

    def _columns(self) -> list[list[int]]:
        """Return the tokens that each sequence drew."""
        tokens, drafts = self.launch.drawn.tokens(), self.launch.batch.drafts
        if not drafts:
            columns: list[list[int]] = tokens.T.tolist()
            return columns
        (drawn,) = tokens.tolist()
        columns, at = [], 0
        for seq in self.seqs:
            draft = drafts.get(seq, [])
            columns.append(verified(draft, drawn[at : at + len(draft) + 1]))
            at += len(draft) + 1
        assert at == len(drawn)
        return columns


def verified(draft: list[int], drawn: list[int]) -> list[int]:
    """Return the tokens that a sequence would have drawn in single steps.

    `drawn`: the token after its last one and after each of the draft. Those after a rejected token
    were drawn from a text that is not the sequence's.
    """
    return drawn[: num_accepted(draft, drawn) + 1]
