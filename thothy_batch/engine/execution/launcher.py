"""How the engine hands steps to what computes them, and gets their tokens back later.

A device computes while the host decides what comes next: some launches are in flight at a time,
each of a few decode steps. A CPU computes a step while it is launched.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch, StepStats
from thothy_batch.engine.speculative.prompt_lookup import num_accepted
from thothy_batch.errors import EngineError
from thothy_batch.records import FinishReason


class Runner(Protocol):
    """Computes one batch at once: forward pass and sampling."""

    def run(self, batch: Batch) -> Int64Array:
        """Write the batch's KV, draw one token per row of logits: int64 [R]."""
        ...


class StepTokens(Protocol):
    """The tokens of a launch, which may still be computed."""

    def tokens(self) -> Int64Array:
        """int64 [steps, R]; waits for them. -1: a row had no usable logits."""
        ...


class Launcher(Protocol):
    """Computes the steps of a span, one launch after another."""

    lookahead: int  # launches that may be in flight while the next one is decided on
    max_steps: int  # of one launch
    # Whether it knows by itself the last token of each row (see Batch.slots), and leaves out rows
    # that have reached their limit.
    keeps_state: bool

    @property
    def max_samples(self) -> int | None:
        """Most samples of a request; None: any number."""
        ...

    def begin(self, batch: Batch) -> None:
        """Take over the batch of a span's first step; its arrays are not needed afterwards."""
        ...

    def launch(self, num_steps: int) -> StepTokens:
        """Compute the span's next steps. Raises when it cannot; whether it could may also show
        only when the tokens are read."""
        ...


class SyncLauncher:
    """Computes each step while it is launched."""

    lookahead = 0
    max_steps = 1
    keeps_state = False
    max_samples = None

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._batch: Batch | None = None
        self._last: Int64Array | None = None  # tokens of the batch's step before

    def begin(self, batch: Batch) -> None:
        self._batch, self._last = batch, None

    def launch(self, num_steps: int) -> StepTokens:
        assert num_steps == 1
        assert self._batch is not None, "a span begins with its batch"
        if self._last is not None:
            self._batch.advance(self._last)
        self._last = self._runner.run(self._batch)
        return _Computed(self._last)


@dataclass(frozen=True, slots=True)
class _Computed:
    drawn: Int64Array

    def tokens(self) -> Int64Array:
        return self.drawn[None]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A launch whose tokens have not been read yet."""

    rows: list[Sequence]  # who draws, in the order of the tokens
    drawn: StepTokens
    outcome: StepStats
    started_at: float  # seconds since engine ready
    span: ScheduledBatch  # whose steps they are
    # Steps of the launch beyond a sequence's last one: nothing was computed for it.
    idle_steps: dict[Sequence, int] = field(default_factory=dict)

    def collect(self, stop_rule: Callable[[Sequence], FinishReason | None]) -> list[Sequence]:
        """Append the tokens to their sequences; returns who ended. What was drawn for a sequence
        behind its end is dropped, and counted as wasted."""
        finished = []
        num_overrun = 0
        for seq, column in zip(self.rows, self._columns(), strict=True):
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
                seq.finish_reason = stop_rule(seq)
                if seq.finish_reason is not None:
                    finished.append(seq)
                    # What drafts come to behind an end was never counted.
                    num_overrun += 0 if self.span.drafts else len(column) - number
                    break
        self.outcome.waste(num_overrun)
        return finished

    def _columns(self) -> list[list[int]]:
        """The tokens that each row drew."""
        tokens = self.drawn.tokens()
        if not self.span.drafts:
            columns: list[list[int]] = tokens.T.tolist()
            return columns
        (drawn,) = tokens.tolist()
        columns, at = [], 0
        for seq in self.rows:
            draft = self.span.drafts.get(seq, [])
            columns.append(verified(draft, drawn[at : at + len(draft) + 1]))
            at += len(draft) + 1
        assert at == len(drawn)
        return columns


def verified(draft: list[int], drawn: list[int]) -> list[int]:
    """The tokens that a row would have drawn one by one. `drawn`: behind its last token, and behind
    each of the draft; what comes behind a wrong one was drawn from a text that is not the row's."""
    return drawn[: num_accepted(draft, drawn) + 1]
