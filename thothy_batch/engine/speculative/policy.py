"""Decides which rows of a decode step verify drafts, and how long they are.

On a CPU a step of few rows takes as long as reading the weights: some more tokens cost little, and
each that was guessed right saves a row a step. Where rows are many, or guesses wrong, it does not
pay. The choice is the number of drafted tokens that makes most tokens a second, predicted from the
times of earlier steps and from how often guesses were right. No number of rows or tokens decides.

What the greedy row draws at each drafted place shows whether the draft is right there: outputs are
those of single steps, token for token where the arithmetic does not depend on the batch (float32 on
a CPU), else up to its ties. But for those, only speed depends on what is decided here.
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

# Tokens that each row of a step verifies behind its own; rows without a draft are left out.
Drafts = dict[Sequence, list[int]]

# Tokens; each is right only if all before it are. As many as are worth it are taken: the bound is
# for what deciding costs the host. With the row's own they are 32 queries, which fill matrix tiles.
MAX_DRAFT = 31
_LEAST_GAIN = 1.03  # below that a prediction is no better than its noise
# At the least, for whether guesses are worth making at all: they cost the host some microseconds a
# row.
_HOPED_RATE = 0.8
# Steps larger than any that is known, by at most this ratio, are tried where they would pay if they
# took no longer than the largest known one; so many times, and once more with each so many steps.
# That bounds what is lost.
_TRY_RATIO, _FREE_TRIES, _STEPS_A_TRY = 1.75, 4, 64


class Speculation(Protocol):
    """What the engine asks about steps without parts of prompts."""

    def drafts(self, rows: list[Sequence], room: dict[Sequence, int], most: int) -> Drafts:
        """Of the next step: at most `room` tokens of each row, `most` in all. Rows that may have
        no draft are not in `room`."""
        ...

    def learn(self, num_tokens: int, seconds: float) -> None:
        """The step that was asked about was computed, and its sequences know their tokens."""
        ...

    def forget(self, seqs: Iterable[Sequence]) -> None:
        """Sequences have ended."""
        ...


@dataclass(slots=True)
class _Row:
    """What is known of a sequence's guesses."""

    drafter: PromptLookup
    counts: Counts = field(default_factory=Counts)

    def catch_up(self, seq: Sequence) -> None:
        self.drafter.extend(seq.output_ids[len(self.drafter) - seq.prompt_len :])


class SpeculationPolicy:
    """Prompt lookup where it pays."""

    def __init__(self) -> None:
        self._times = StepTimes()
        self._acceptance = AcceptanceTracker()
        self._rows: dict[Sequence, _Row] = {}
        self._guesses: dict[Sequence, Draft] = {}  # of the step under way
        self._num_tries = 0

    def drafts(self, rows: list[Sequence], room: dict[Sequence, int], most: int) -> Drafts:
        self._guesses = {}
        num_rows = len(rows)
        if not room or most < 1:
            return {}
        lens = {seq: min(MAX_DRAFT, num_tokens) for seq, num_tokens in room.items()}
        hoped = max(_HOPED_RATE, self._acceptance.best_rate)
        if not self._best(num_rows, _gains(lens, dict.fromkeys(lens, hoped))[:most]):
            return {}
        self._guesses = {seq: guess for seq in lens if (guess := self._guess(seq)).tokens}
        lens = {seq: min(lens[seq], len(guess.tokens)) for seq, guess in self._guesses.items()}
        rates = {
            seq: self._acceptance.rate(guess.ngram, self._rows[seq].counts)
            for seq, guess in self._guesses.items()
        }
        gains = _gains(lens, rates)[:most]
        num_drafted = self._best(num_rows, gains)
        if num_drafted and num_rows + num_drafted > self._times.most_tokens:
            self._num_tries += 1
        drafts: Drafts = {}
        for _, _, seq in gains[:num_drafted]:
            drafts.setdefault(seq, []).append(self._guesses[seq].tokens[len(drafts.get(seq, ()))])
        return drafts

    def learn(self, num_tokens: int, seconds: float) -> None:
        self._times.note(num_tokens, seconds)
        for seq, guess in self._guesses.items():
            row = self._rows[seq]
            drawn = seq.output_ids[len(row.drafter) - seq.prompt_len :]
            num_judged = min(len(drawn), len(guess.tokens))
            num_hits = num_accepted(guess.tokens, drawn)
            self._acceptance.judge(guess.ngram, row.counts, num_hits, missed=num_hits < num_judged)
        self._guesses = {}

    def forget(self, seqs: Iterable[Sequence]) -> None:
        for seq in seqs:
            self._rows.pop(seq, None)
            self._guesses.pop(seq, None)

    def _guess(self, seq: Sequence) -> Draft:
        row = self._rows.get(seq)
        if row is None:
            row = self._rows[seq] = _Row(PromptLookup(seq.state.request.prompt_token_ids))
        row.catch_up(seq)
        return row.drafter.propose(MAX_DRAFT)

    def _best(self, num_rows: int, gains: list[tuple[float, int, Sequence]]) -> int:
        """How many of the drafted tokens are worth verifying; `gains` begins with each one's
        chance to be right, likeliest first."""
        if not gains:
            return 0
        # As long as a step without drafts was not measured it is taken to be as fast as it can be:
        # drafts that pay even so need no such step, others make one happen.
        alone_s = self._times.least_seconds(num_rows)
        if not alone_s:
            return 0
        num_tokens = num_rows + np.cumsum([0.0, *(chance for chance, _, _ in gains)])
        seconds = self._times.seconds(num_rows, num_rows + len(gains))
        seconds[0] = min(alone_s, seconds[1])  # a smaller step that took longer was disturbed
        rates = num_tokens / seconds
        best = int(rates.argmax())
        if rates[best] <= rates[0] * _LEAST_GAIN:
            best = 0
        largest = self._times.most_tokens
        if self._num_tries >= _FREE_TRIES + self._times.num_steps / _STEPS_A_TRY:
            return best
        edge = max(0, largest - num_rows)
        tried = min(len(gains), int(largest * _TRY_RATIO) - num_rows)
        # A larger step than is known takes at least as long as the largest of those that are.
        if tried > edge and num_tokens[tried] / seconds[edge] > rates[best] * _LEAST_GAIN:
            return tried
        return best


def _gains(
    lens: dict[Sequence, int], rates: dict[Sequence, float]
) -> list[tuple[float, int, Sequence]]:
    """The chance of each drafted token to be right with all before it, likeliest first; of a row
    the earlier token always goes first."""
    gains = [
        (min(rates[seq], 0.99) ** place, place, seq)
        for seq, num_tokens in lens.items()
        for place in range(1, num_tokens + 1)
    ]
    return sorted(gains, key=lambda gain: (-gain[0], gain[1]))


def with_drafts(
    span: ScheduledBatch, speculation: Speculation, config: EngineConfig, most: int
) -> ScheduledBatch:
    """The span, or one of a step that verifies drafts if that pays, of `most` tokens. Beside
    prompts no row does: such a step takes as long as its tokens are many."""
    if span.parts:
        return span
    rows = span.decoding.rows
    room = _room_for_drafts(rows, config.block_size)
    # Each token has logits of its own: no more of them than a step without drafts may have.
    drafts = speculation.drafts(rows, room, min(most, config.max_seqs) - len(rows))
    return span.drafting(drafts) if drafts else span


def _room_for_drafts(rows: Iterable[Sequence], block_size: int) -> dict[Sequence, int]:
    """Tokens that may be drafted for each row: greedy, without a penalty that looks at what was
    drawn before. Their KV has blocks already, and the last token is always drawn, not drafted."""
    room = {}
    for seq in rows:
        sampling = seq.state.request.sampling
        if sampling.temperature > 0 or sampling.repetition_penalty != 1.0:
            continue
        num_tokens = seq.num_tokens
        most = min(seq.covered_len(block_size) - num_tokens, seq.max_len - num_tokens - 1)
        if most > 0:
            room[seq] = most
    return room
