"""Launcher protocol: how the engine launches steps and reads their tokens later.

A device computes while the host decides on the next batch: several launches are in flight, each of
a few decode steps. A CPU computes a step while it is launched.
"""

from dataclasses import dataclass
from typing import Protocol

from thothy_batch.engine.execution.batch import Batch, Int64Array


class Runner(Protocol):
    """Computes one batch at once: forward pass and sampling."""

    def run(self, batch: Batch) -> Int64Array:
        """Write the batch's KV, draw one token per row of logits: int64 [R]."""
        ...


class StepTokens(Protocol):
    """The tokens of a launch, which may still be computed."""

    def tokens(self) -> Int64Array:
        """Wait for the tokens and return them, int64 [steps, R]; -1: a row's logits are unusable.

        Called once.
        """
        ...


class Launcher(Protocol):
    """Computes the steps of a batch, one launch after another."""

    lookahead: int  # launches that may be in flight while the next batch is decided on
    max_steps: int  # of one launch
    # True if it keeps the last token of each sequence on the device (see Batch.slots), and masks
    # sequences that have reached their limit.
    keeps_state: bool

    @property
    def max_samples(self) -> int | None:
        """Most samples of a request; None: any number."""
        ...

    def begin(self, batch: Batch) -> None:
        """Prepare a batch's first step; its arrays are not needed afterwards."""
        ...

    def launch(self, num_steps: int) -> StepTokens:
        """Compute the batch's next steps.

        Raises if it cannot; some errors show only when the tokens are read.
        """
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
        self._last: Int64Array | None = None  # tokens of the previous step

    def begin(self, batch: Batch) -> None:
        self._batch, self._last = batch, None

    def launch(self, num_steps: int) -> StepTokens:
        assert num_steps == 1
        assert self._batch is not None, "begin comes before launch"
        if self._last is not None:
            self._batch.advance(self._last)
        self._last = self._runner.run(self._batch)
        return _Computed(self._last)


@dataclass(frozen=True, slots=True)
class _Computed:
    drawn: Int64Array

    def tokens(self) -> Int64Array:
        return self.drawn[None]
