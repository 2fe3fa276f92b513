"""Batch executor: builds scheduled batches and launches their steps."""

from collections.abc import Iterable

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.execution.batch import BatchBuilder
from thothy_batch.engine.execution.launcher import Launcher, StepTokens
from thothy_batch.engine.execution.state_slots import StateSlots
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch


class BatchExecutor:
    """Drives a launcher, and assigns the state slots of one that keeps state."""

    def __init__(self, layout: KVLayout, launcher: Launcher) -> None:
        self._launcher = launcher
        self._slots = StateSlots() if launcher.keeps_state else None
        self._builder = BatchBuilder(layout, self._slots)

    @property
    def lookahead(self) -> int:
        """Launches that may be in flight while the next batch is decided on."""
        return self._launcher.lookahead

    def num_steps(self, batch: ScheduledBatch) -> int:
        """Return the steps of the batch's next launch.

        A device continues past the end of a sequence while others go on: a round trip to the host
        takes longer than a masked sequence for some steps.
        """
        left = batch.num_steps - batch.num_done
        most = self._launcher.max_steps
        if self._launcher.keeps_state and left < most and not batch.chunks:
            longest = max(seq.max_len - seq.num_tokens for seq in batch.decoding)
            left = max(left, min(batch.max_steps - batch.num_done, longest))
        return min(left, most)

    def launch(self, batch: ScheduledBatch, num_steps: int) -> StepTokens:
        """Launch the batch's next steps. If it raises, call `rollback`."""
        if not batch.num_done:
            self._launcher.begin(self._builder.build(batch))
        return self._launcher.launch(num_steps)

    def rollback(self, batch: ScheduledBatch) -> None:
        """Free the state slots assigned to a batch whose first launch failed."""
        if self._slots is not None and not batch.num_done:
            for chunk in batch.chunks:
                self._slots.free_samples(chunk.seq)

    def release(self, seqs: Iterable[Sequence]) -> None:
        """Free the state slots of sequences that finished or were preempted."""
        if self._slots is not None:
            self._slots.free(seqs)
