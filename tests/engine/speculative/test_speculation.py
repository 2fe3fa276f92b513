"""Speculation: outputs equal those of single steps, and bookkeeping stays right."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shadow_model import STOP_ID, VOCAB, ShadowRunner, next_token

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.execution.in_flight import verified
from thothy_batch.engine.execution.launcher import SyncLauncher
from thothy_batch.engine.fake_model import ByteTokenizer
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.engine.speculative.policy import Drafts, Speculation
from thothy_batch.engine.speculative.prompt_lookup import MAX_NGRAM, PromptLookup
from thothy_batch.records import LayerGroup, Request, RequestResult

WINDOWED = (LayerGroup((0,)), LayerGroup((1, 2), 6))


class Oracle:
    """Drafts whenever it may: mostly the shadow model's next tokens, then others."""

    def __init__(self, random: Random, window: int | None = None) -> None:
        self.random, self.window = random, window
        self.num_drafts = 0

    def drafts(self, rows: list[Sequence], room: dict[Sequence, int], most: int) -> Drafts:
        drafts: Drafts = {}
        for seq, num_tokens in room.items():
            assert seq in rows
            length = min(self.random.randint(0, 6), num_tokens, most)
            if length > 0 and self.random.random() < 0.8:
                drafts[seq] = self._draft(seq, length)
                most -= length
        self.num_drafts += len(drafts)
        return drafts

    def learn(self, num_tokens: int, seconds: float) -> None:
        pass

    def forget(self, seqs: Iterable[Sequence]) -> None:
        pass

    def _draft(self, seq: Sequence, length: int) -> list[int]:
        known = seq.tokens(0, seq.num_tokens).tolist()
        for _ in range(length):
            seen = known if self.window is None else known[-self.window :]
            right = next_token(seen, seq.seed)
            known.append(right if self.random.random() < 0.8 else self.random.randrange(VOCAB))
        return known[-length:]


def speculating(config: Any, speculation: Speculation) -> tuple[LLMEngine, ShadowRunner]:
    runner = ShadowRunner(config.layout, config.num_pages)
    rules = StopChecker({STOP_ID}, ByteTokenizer())
    launcher = SyncLauncher(runner)
    return LLMEngine(config, launcher, rules, vocab_size=VOCAB, speculation=speculation), runner


def random_run(random: Random, request_of: Callable[..., Request]) -> list[Request]:
    """Draw greedy and sampled requests of any length, some with a common prefix or samples."""
    head = [random.randrange(1, VOCAB) for _ in range(random.randint(1, 20))]
    requests = []
    for number in range(random.randint(1, 10)):
        own = [random.randrange(1, VOCAB) for _ in range(random.randint(1, 12))]
        requests.append(
            request_of(
                number,
                head + own if random.random() < 0.5 else own,
                random.randint(1, 40),
                num_samples=random.choice([1, 1, 1, 3]),
                temperature=random.choice([0.0, 0.0, 0.0, 1.0]),
                repetition_penalty=random.choice([1.0, 1.0, 1.0, 1.1]),
                ignore_eos=random.random() < 0.5,
                seed=random.randint(0, 2),
            )
        )
    return requests


def run(engine: LLMEngine, runner: ShadowRunner, requests: list[Request], random: Random) -> Any:
    """Submit and run all requests, with steps that fail in between."""
    results: dict[int, RequestResult] = {}
    for request in requests:
        engine.submit([request])
        for _ in range(random.randint(0, 4)):
            runner.fail_next = engine.has_work and random.random() < 0.1
            with suppress(RuntimeError):
                engine.step()
            engine.check_integrity()
            runner.fail_next = False
    while engine.has_work:
        engine.step()
        engine.check_integrity()
    results |= {result.request_id: result for result in engine.pop_update().results}
    return results


@pytest.mark.few(10)
@pytest.mark.parametrize("groups", [(LayerGroup((0, 1)),), WINDOWED, (LayerGroup((0,), 7),)])
@pytest.mark.parametrize("seed", range(40))
def test_outputs_are_those_of_single_steps(
    groups: tuple[LayerGroup, ...], seed: int, config_of: Any, request_of: Any, expected: Any
) -> None:
    random = Random(seed)
    layout = KVLayout(groups, random.choice([1, 2, 4, 8]))
    requests = random_run(random, request_of)
    step = random.choice([3, 5, 9, 40])  # as many as the samples of a request, or more
    largest = max(
        layout.smallest_pool(len(r.prompt_token_ids), r.sampling.max_tokens, r.num_samples, step)
        for r in requests
    )
    config = config_of(
        layout=layout,
        num_blocks=largest + random.choice([0, 3, 60]),
        max_step_tokens=step,
        max_seqs=random.randint(3, 8),
        admission=random.choice(["reserve", "optimistic"]),
    )
    window = groups[0].window
    oracle = Oracle(random, window)
    engine, runner = speculating(config, oracle)
    results = run(engine, runner, requests, random)
    for request in requests:
        got = [completion.token_ids for completion in results[request.request_id].completions]
        assert got == expected(request, window)
    totals = engine.totals
    assert max(runner.num_tokens) <= step
    assert totals.accepted_tokens <= totals.drafted_tokens
    assert totals.output_tokens == sum(result.output_tokens for result in results.values())
    assert engine.pop_update().blocks_used == 0, "a block leaked"
    rejected = totals.drafted_tokens - totals.accepted_tokens
    if not totals.num_preempted:
        assert totals.wasted_tokens == rejected
        assert sum(result.wasted_tokens for result in results.values()) == rejected


def test_right_drafts_save_steps(config_of: Any, request_of: Any, expected: Any) -> None:
    config = config_of(num_blocks=64)
    request = request_of(0, [1, 2, 3], 60, ignore_eos=True)
    engine, runner = speculating(config, Oracle(Random(1)))
    results = run(engine, runner, [request], Random(0))
    assert results[0].completions[0].token_ids == expected(request)[0]
    assert engine.totals.accepted_tokens > 15
    assert engine.totals.num_steps == 60 - engine.totals.accepted_tokens


def test_a_loop_ends_where_it_would_without_drafts(config_of: Any, request_of: Any) -> None:
    """The model repeats one token: every sixteenth token is checked, and drafts span it."""

    class Stuck(ShadowRunner):
        def run(self, batch: Any) -> Any:
            return super().run(batch) * 0 + 7

    class Sevens(Oracle):
        def _draft(self, seq: Sequence, length: int) -> list[int]:
            return [7] * length

    lens = []
    for speculation in (None, Sevens(Random(3))):
        config = config_of(num_blocks=64)
        runner = Stuck(config.layout, config.num_pages)
        engine = LLMEngine(
            config,
            SyncLauncher(runner),
            StopChecker({STOP_ID}, ByteTokenizer()),
            vocab_size=VOCAB,
            speculation=speculation,
        )
        request = request_of(0, [1, 2], 200, repetition_stop=True)
        result = run(engine, runner, [request], Random(0))[0]
        assert result.completions[0].finish_reason == "repetition"
        rejected = engine.totals.drafted_tokens - engine.totals.accepted_tokens
        assert result.wasted_tokens == engine.totals.wasted_tokens == rejected
        lens.append((len(result.completions[0].token_ids), engine.totals.output_tokens))
    assert lens == [(64, 64)] * 2


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 10))
@settings(deadline=None)
def test_a_draft_equals_the_tokens_after_the_longest_earlier_ngram(
    tokens: list[int], size: int
) -> None:
    drafter = PromptLookup(tokens[:7])
    for token in tokens[7:]:
        drafter.extend([token])
    ngram, draft = drafter.propose(size)
    for n in range(min(MAX_NGRAM, len(tokens)), 0, -1):
        end = len(tokens)
        places = [i for i in range(n, end) if tokens[i - n : i] == tokens[end - n :]]
        if places:
            followed = list(tokens)
            for at in range(places[-1], places[-1] + size):
                followed.append(followed[at])
            assert (ngram, draft) == (n, followed[end:])
            return
    assert (ngram, draft) == (0, [])


def test_verified_tokens_end_after_the_first_wrong_one() -> None:
    assert verified([], [5]) == [5]
    assert verified([5, 6], [5, 6, 7]) == [5, 6, 7]
    assert verified([5, 6], [5, 9, 7]) == [5, 9]
    assert verified([5, 6], [4, 6, 7]) == [4]
