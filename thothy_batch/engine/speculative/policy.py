"""Speculation policy: decides which sequences of a decode step verify drafts, and how long.

On a CPU a step of few sequences takes as long as reading the weights: some more tokens cost little,
and each accepted one saves a sequence a step. With many sequences or poor drafts it does not pay.
The policy picks the number of drafted tokens with the most tokens per second, predicted from the
times of earlier steps and from acceptance rates; there is no fixed threshold of sequences or
tokens.

The token that a greedy sequence draws at each drafted position shows whether the draft is right
there. So outputs equal those of single steps: token for token where the arithmetic does not depend
on the batch (float32 on a CPU), else up to ties. Apart from ties, the policy affects speed only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.cost.step_times import StepTimes
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch
from thothy_batch.engine.speculative.acceptance_tracker import AcceptanceTracker, Counts
from thothy_batch.engine.speculative.prompt_lookup import Draft, PromptLookup, num_accepted

# Tokens to verify after each sequence's own; sequences without a draft are left out.
Drafts = dict[Sequence, list[int]]
# Chance to be right, position within the draft, sequence.
_Gain = tuple[float, int, Sequence]

# Tokens; each is right only if all before it are, and only as many as pay are verified. The limit
# bounds the host's time for the decision. With the sequence's own token they are 32 queries, which
# fill matrix tiles.
MAX_DRAFT = 31
_MIN_GAIN = 1.03  # a smaller predicted gain is within the noise
# Acceptance rate assumed at least, to decide whether drafts are worth proposing at all: that costs
# the host some microseconds per sequence.
_HOPED_RATE = 0.8
# A step up to this ratio larger than any known one is tried if it would pay at the time of the
# largest known one: so many times at first, and once more per so many steps. That bounds the loss.
_TRY_RATIO, _FREE_TRIES, _STEPS_A_TRY = 1.75, 4, 64


class Speculation(Protocol):
    """Drafts for steps without prefill chunks."""

    def drafts(self, seqs: list[Sequence], room: dict[Sequence, int], max_tokens: int) -> Drafts:
        """Draft for the next step: at most `room` tokens per sequence, `max_tokens` in all.

        Sequences that must not have a draft are missing in `room`.
        """
        ...

    def learn(self, num_tokens: int, seconds: float) -> None:
        """Learn from the step that was drafted for, once its sequences know their tokens."""
        ...

    def forget(self, seqs: Iterable[Sequence]) -> None:
        """Drop the state of finished sequences."""
        ...


@dataclass(slots=True)
class _Record:
    """Prompt lookup and acceptance counts of a sequence."""

    lookup: PromptLookup
    counts: Counts = field(default_factory=Counts)

    def new_tokens(self, seq: Sequence) -> list[int]:
        """Return the output tokens that the lookup does not have yet."""
        return seq.output_ids[len(self.lookup) - seq.prompt_len :].tolist()


class SpeculationPolicy:
    """Prompt lookup where it pays."""

    def __init__(self) -> None:
        self._times = StepTimes()
        self._acceptance = AcceptanceTracker()
        self._records: dict[Sequence, _Record] = {}
        self._proposed: dict[Sequence, Draft] = {}  # for the step in flight
        self._num_tries = 0

    def drafts(self, seqs: list[Sequence], room: dict[Sequence, int], max_tokens: int) -> Drafts:
        self._proposed = {}
        num_seqs = len(seqs)
        if not room or max_tokens < 1:
            return {}
        lens = {seq: min(MAX_DRAFT, num_tokens) for seq, num_tokens in room.items()}
        hoped = max(_HOPED_RATE, self._acceptance.best_rate)
        if not self._best(num_seqs, _gains(lens, dict.fromkeys(lens, hoped))[:max_tokens]):
            return {}
        self._proposed = {seq: draft for seq in lens if (draft := self._propose(seq)).tokens}
        lens = {seq: min(lens[seq], len(draft.tokens)) for seq, draft in self._proposed.items()}
        rates = {
            seq: self._acceptance.rate(draft.ngram, self._records[seq].counts)
            for seq, draft in self._proposed.items()
        }
        gains = _gains(lens, rates)[:max_tokens]
        num_drafted = self._best(num_seqs, gains)
        if num_drafted and num_seqs + num_drafted > self._times.most_tokens:
            self._num_tries += 1
        drafts: Drafts = {}
        for _, _, seq in gains[:num_drafted]:
            drafts.setdefault(seq, []).append(self._proposed[seq].tokens[len(drafts.get(seq, ()))])
        return drafts

    def learn(self, num_tokens: int, seconds: float) -> None:
        self._times.note(num_tokens, seconds)
        for seq, draft in self._proposed.items():
            record = self._records[seq]
            drawn = record.new_tokens(seq)
            num_judged = min(len(drawn), len(draft.tokens))
            num_hits = num_accepted(draft.tokens, drawn)
            missed = num_hits < num_judged
            self._acceptance.judge(draft.ngram, record.counts, num_hits, missed=missed)
        self._proposed = {}

    def forget(self, seqs: Iterable[Sequence]) -> None:
        for seq in seqs:
            self._records.pop(seq, None)
            self._proposed.pop(seq, None)

    def _propose(self, seq: Sequence) -> Draft:
        record = self._records.get(seq)
        if record is None:
            record = _Record(PromptLookup(seq.state.request.prompt_token_ids))
            self._records[seq] = record
        record.lookup.extend(record.new_tokens(seq))
        return record.lookup.propose(MAX_DRAFT)

    def _best(self, num_seqs: int, gains: list[_Gain]) -> int:
        """Return how many of the drafted tokens are worth verifying; `gains`: likeliest first."""
        if not gains:
            return 0
        # A step without drafts that was never measured is assumed to be as fast as possible:
        # drafts that pay even so need no such step, others make one happen.
        alone_s = self._times.least_seconds(num_seqs)
        if not alone_s:
            return 0
        num_tokens = num_seqs + np.cumsum([0.0, *(chance for chance, _, _ in gains)])
        seconds = self._times.seconds(num_seqs, num_seqs + len(gains))
        seconds[0] = min(alone_s, seconds[1])  # a smaller step that took longer was disturbed
        rates = num_tokens / seconds
        best = int(rates.argmax())
        if rates[best] <= rates[0] * _MIN_GAIN:
            best = 0
        largest = self._times.most_tokens
        if self._num_tries >= _FREE_TRIES + self._times.num_steps / _STEPS_A_TRY:
            return best
        edge = max(0, largest - num_seqs)
        tried = min(len(gains), int(largest * _TRY_RATIO) - num_seqs)
        # A step larger than any known one takes at least as long as the largest known one.
        if tried > edge and num_tokens[tried] / seconds[edge] > rates[best] * _MIN_GAIN:
            return tried
        return best


def _gains(lens: dict[Sequence, int], rates: dict[Sequence, float]) -> list[_Gain]:
    """Return each drafted token's chance to be right with all before it, likeliest first.

    Within a sequence the earlier token always comes first.
    """
    gains = [
        (min(rates[seq], 0.99) ** place, place, seq)
        for seq, num_tokens in lens.items()
        for place in range(1, num_tokens + 1)
    ]
    return sorted(gains, key=lambda gain: (-gain[0], gain[1]))


def add_drafts(
    batch: ScheduledBatch, speculation: Speculation, config: EngineConfig, max_step_tokens: int
) -> ScheduledBatch:
    """Return the batch, or one whose next step verifies drafts if that pays.

    A batch with prefill chunks gets none: its step takes as long as its tokens are many.
    """
    if batch.chunks:
        return batch
    seqs = batch.decoding.seqs
    room = _room_for_drafts(seqs, config.block_size)
    # Each token has logits of its own: no more of them than a step without drafts may have.
    max_tokens = min(max_step_tokens, config.max_seqs) - len(seqs)
    drafts = speculation.drafts(seqs, room, max_tokens)
    return batch.with_drafts(drafts) if drafts else batch


def _room_for_drafts(seqs: Iterable[Sequence], block_size: int) -> dict[Sequence, int]:
    """Return the tokens that may be drafted for each greedy sequence.

    Their KV already has blocks, and the last token is always drawn, not drafted. A repetition
    penalty depends on the tokens drawn before, so it excludes drafts.
    """
    room = {}
    for seq in seqs:
        sampling = seq.state.request.sampling
        if sampling.temperature > 0 or sampling.repetition_penalty != 1.0:
            continue
        num_tokens = seq.num_tokens
        most = min(seq.covered_len(block_size) - num_tokens, seq.max_len - num_tokens - 1)
        if most > 0:
            room[seq] = most
    return room
