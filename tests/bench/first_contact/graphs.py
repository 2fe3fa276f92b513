"""Decode steps from CUDA graphs give the tokens of the same launches without, three times over.

The kernels are the same, bit for bit: a difference is a race, or a graph that reads what is stale.
"""

import time
from collections.abc import Iterator

import torch
from device_place import IS_DRY_RUN, sizes

from first_contact import models
from first_contact.place import seeded
from first_contact.recorder import Check
from thothy_batch.engine.execution.decode_graphs import DecodeGraphs
from thothy_batch.engine.execution.gpu_runner import GPURunner
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.records import Request, Sampling, SharedPrefix

_BUCKETS = sizes([1, 2, 4, 8, 16, 32, 64], [4, 64])
_NUM_REQUESTS = sizes([40], [4])[0]
_NUM_RUNS = 3
_PREFIX_LEN = 64
Tokens = list[list[tuple[int, ...]]]


class _NoGraphs(DecodeGraphs):
    """Graphs that nothing was captured in: each step is launched kernel by kernel."""

    def __contains__(self, key: tuple[int, bool]) -> bool:
        return False


def checks() -> Iterator[Check]:
    runs = _Runs()
    yield "eager", runs.eager
    if not IS_DRY_RUN:
        yield "captured", runs.captured


class _Runs:
    def __init__(self) -> None:
        num_blocks = sizes([3000], [60])[0]
        self._engine = models.load(num_blocks=num_blocks, max_seqs=64, num_layers=2)
        self._eager: Tokens = []

    def eager(self) -> str:
        self._eager = self._tokens(self._engine.runner(_BUCKETS, _NoGraphs()))
        num_tokens = sum(len(tokens) for request in self._eager for tokens in request)
        assert num_tokens > 0
        return f"{num_tokens} tokens"

    def captured(self) -> dict[str, object]:
        assert self._eager, "there are no tokens to compare with"
        figures: list[dict[str, object]] = []
        for _ in range(_NUM_RUNS):
            runner = self._engine.runner(_BUCKETS)
            figures.append(_measured(runner))
            found = self._tokens(runner)
            pairs = zip(found, self._eager, strict=True)
            wrong = [i for i, (tokens, eager) in enumerate(pairs) if tokens != eager]
            assert not wrong, f"requests {wrong[:10]} differ from the same launches without graphs"
        return figures[0] | {"capture_again_s": figures[-1]["capture_s"]}

    def _tokens(self, runner: GPURunner) -> Tokens:
        vocab_size = self._engine.model.config.vocab_size
        rules = StopChecker(frozenset(), None)
        engine = LLMEngine(
            self._engine.config, runner, rules, vocab_size=vocab_size, has_tokenizer=False
        )
        engine.submit(list(_requests(vocab_size)))
        while engine.has_work:
            engine.step()
        results = sorted(engine.pop_update().results, key=lambda result: result.request_id)
        return [[tuple(c.token_ids) for c in result.completions] for result in results]


def _measured(runner: GPURunner) -> dict[str, object]:
    """Capture a runner's graphs."""
    free, _ = torch.cuda.mem_get_info()
    began = time.monotonic()
    runner.capture()
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    return {
        "graphs": runner.num_graphs,
        "capture_s": round(seconds, 2),
        "memory_mib": (free - torch.cuda.mem_get_info()[0]) >> 20,
    }


def _requests(vocab_size: int) -> Iterator[Request]:
    """Greedy and drawn ones, with top-p, penalties, several samples and a shared beginning."""
    prefix = _random_ids(vocab_size, _PREFIX_LEN, seed=1)
    num_readers = len(range(0, _NUM_REQUESTS, 2))
    for i in range(_NUM_REQUESTS):
        is_reader = i % 2 == 0
        sampling = Sampling(
            max_tokens=sizes([5 + i % 23], [4])[0],
            ignore_eos=True,
            repetition_stop=False,
            temperature=0.8 * (i % 2),
            top_p=0.9 if i % 5 == 1 else 1.0,
            repetition_penalty=1.2 if i % 7 == 0 else 1.0,
        )
        own = _random_ids(vocab_size, 3 + 7 * i, seed=2 + i)
        yield Request(
            i,
            "",
            (prefix if is_reader else []) + own,
            sampling,
            seed=i,
            num_samples=3 if i % 11 == 1 and not IS_DRY_RUN else 1,
            prefixes=(SharedPrefix(0, _PREFIX_LEN, num_readers),) if is_reader else (),
        )


def _random_ids(vocab_size: int, length: int, *, seed: int) -> list[int]:
    ids: list[int] = torch.randint(5, vocab_size, (length,), generator=seeded(seed)).tolist()
    return ids
