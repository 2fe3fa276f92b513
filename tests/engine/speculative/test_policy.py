"""Speculation policy: drafts are verified only where they pay, whatever the step times."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from thothy_batch.engine.core.sequence import Clock, Sequence
from thothy_batch.engine.cost.step_times import StepTimes
from thothy_batch.engine.speculative.policy import SpeculationPolicy


def test_step_times_never_fall_and_grow_in_proportion_beyond_what_is_known() -> None:
    times = StepTimes()
    for num_tokens, seconds in ((1, 9.0), (4, 2.0), (8, 3.0)):
        times.note(num_tokens, seconds)
        times.note(num_tokens, seconds)
    assert times.seconds(1, 16)[[0, 3, 5, 7, 15]].tolist() == [2.0, 2.0, 2.5, 3.0, 6.0]


def test_a_size_that_was_not_measured_takes_its_share_of_others_at_the_least() -> None:
    times = StepTimes()
    assert times.least_seconds(3) == 0
    for num_tokens, seconds in ((2, 1.0), (4, 2.0), (8, 3.0), (64, 8.0)):
        for _ in range(2 if num_tokens < 64 else 1):
            times.note(num_tokens, seconds)
    known = [times.least_seconds(num_tokens) for num_tokens in (1, 2, 3, 4, 6, 8, 16)]
    assert known == [0.5, 1.0, 1.5, 2.0, 2.25, 3.0, 3.0]


class Clocked:
    """Some sequences, and a device whose steps take `step_s(tokens)`; records the decisions."""

    def __init__(
        self, speculator: SpeculationPolicy, prompts: list[list[int]], request_of: Any
    ) -> None:
        self.speculator, self.clock = speculator, Clock()
        self.seqs = []
        for number, prompt in enumerate(prompts):
            seq = Sequence.first_of(request_of(number, prompt, 10_000), self.clock)
            seq.start_decoding()
            self.seqs.append(seq)
        self.num_steps = self.num_drafted = self.num_drawn = 0
        self.seconds = 0.0

    def run(
        self, num_steps: int, says: Callable[[Sequence], int], step_s: Callable[[int], float]
    ) -> None:
        for _ in range(num_steps):
            drafts = self.speculator.drafts(self.seqs, dict.fromkeys(self.seqs, 50), 500)
            for seq in self.seqs:
                for token in [*drafts.get(seq, []), -1]:
                    drawn = says(seq)
                    seq.output_ids.append(drawn)
                    self.num_drawn += 1
                    if drawn != token:
                        break
            num_drafted = sum(map(len, drafts.values()))
            self.num_drafted += num_drafted
            seconds = step_s(len(self.seqs) + num_drafted)
            self.seconds += seconds
            self.speculator.learn(len(self.seqs) + num_drafted, seconds)


def reads_weights(num_tokens: int) -> float:
    """A CPU: up to 16 tokens for the price of one."""
    return 0.05 * max(1.0, num_tokens / 16)


def in_proportion(num_tokens: int) -> float:
    return 0.01 * num_tokens


def copies(seq: Sequence) -> int:
    return seq.state.request.prompt_token_ids[len(seq.output_ids) % seq.prompt_len]


PROMPTS = [[Random(row).randrange(200) for _ in range(50)] for row in range(4)]


def test_it_drafts_where_outputs_copy_and_tokens_are_cheap(request_of: Any) -> None:
    clocked = Clocked(SpeculationPolicy(), PROMPTS, request_of)
    clocked.run(200, copies, reads_weights)
    assert clocked.num_drawn > 2.5 * 4 * 200
    assert clocked.num_drawn / clocked.seconds > 2.5 * 4 / reads_weights(4)


def test_sequences_that_end_require_no_step_without_drafts(request_of: Any) -> None:
    """Drafts that pay even against the shortest possible step are not delayed to measure one."""

    def step_s(num_tokens: int) -> float:
        return 0.05 + 0.001 * num_tokens

    prompts = [[Random(row).randrange(200) for _ in range(50)] for row in range(40)]
    clocked = Clocked(SpeculationPolicy(), prompts, request_of)
    clocked.run(20, copies, step_s)
    while len(clocked.seqs) > 4:
        clocked.speculator.forget(clocked.seqs[-3:])
        del clocked.seqs[-3:]
        drafted = clocked.num_drafted
        clocked.run(1, copies, step_s)
        assert clocked.num_drafted > drafted


@pytest.mark.parametrize("step_s", [reads_weights, in_proportion])
def test_it_costs_next_to_nothing_where_drafts_are_wrong(request_of: Any, step_s: Any) -> None:
    random = Random(5)
    clocked = Clocked(SpeculationPolicy(), PROMPTS, request_of)
    clocked.run(100, lambda seq: random.randrange(200), step_s)
    clocked.num_drafted, clocked.num_drawn, clocked.seconds = 0, 0, 0.0
    clocked.run(1000, lambda seq: random.randrange(200), step_s)
    # A draft that was right by chance is followed up for some steps.
    assert clocked.num_drafted < 0.05 * 4 * 1000
    assert clocked.num_drawn / clocked.seconds > 0.97 * 4 / step_s(4)


def test_it_does_not_draft_where_tokens_cost_in_proportion(request_of: Any) -> None:
    clocked = Clocked(SpeculationPolicy(), PROMPTS, request_of)
    clocked.run(1000, copies, in_proportion)
    assert clocked.num_drawn / clocked.seconds > 0.97 * 4 / in_proportion(4)


def test_it_resumes_when_outputs_begin_to_copy(request_of: Any) -> None:
    random = Random(5)
    clocked = Clocked(SpeculationPolicy(), PROMPTS, request_of)
    clocked.run(1000, lambda seq: random.randrange(200), reads_weights)
    clocked.run(200, lambda seq: 7, reads_weights)
    clocked.num_drawn, clocked.seconds = 0, 0.0
    clocked.run(100, lambda seq: 7, reads_weights)
    assert clocked.num_drawn / clocked.seconds > 2 * 4 / reads_weights(4)


def test_noise_does_not_mislead_it(request_of: Any) -> None:
    """Some steps take three times as long."""
    noise = Random(9)
    clocked = Clocked(SpeculationPolicy(), PROMPTS, request_of)
    clocked.run(400, copies, lambda n: reads_weights(n) * (3 if noise.random() < 0.15 else 1))
    assert clocked.num_drawn / 400 > 2 * 4
