"""Engines on the shadow model and on real ones, with requests and expected outputs."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from layouts import uniform_layout
from shadow_model import STOP_ID, VOCAB, LateLauncher, ShadowRunner, next_token

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.execution.launcher import Launcher, SyncLauncher
from thothy_batch.engine.fake_model import ByteTokenizer
from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.records import EngineSpec, Request, RequestResult, Sampling


def make_config(**settings: Any) -> EngineConfig:
    defaults = {
        "device": "cpu",
        "impl": "reference",
        "dtype": "float32",
        "layout": uniform_layout(4),
        "num_blocks": 64,
        "max_seqs": 8,
        "max_step_tokens": 32,
        "max_model_len": 256,
        "admission": "reserve",
        "prefix_sharing": True,
    }
    if "block_size" in settings:
        settings["layout"] = uniform_layout(settings.pop("block_size"))
    return EngineConfig(**(defaults | settings))


def make_shadow_engine(
    lookahead: int | None = None, max_steps: int = 1, **settings: Any
) -> tuple[LLMEngine, ShadowRunner]:
    """Build an engine. `lookahead`: launches in flight on a late device; None: a CPU."""
    config = make_config(**settings)
    runner = ShadowRunner(config.layout, config.num_pages)
    rules = StopChecker({STOP_ID}, ByteTokenizer())
    launcher: Launcher = SyncLauncher(runner)
    if lookahead is not None:
        launcher = LateLauncher(runner, lookahead, max_steps)
    return LLMEngine(config, launcher, rules, vocab_size=VOCAB), runner


def make_request(
    request_id: int, prompt: Iterable[int], max_tokens: int = 8, **more: Any
) -> Request:
    sampling = {
        name: more.pop(name)
        for name in ("temperature", "stop", "ignore_eos", "repetition_stop", "repetition_penalty")
        if name in more
    }
    sampling = {"repetition_stop": False} | sampling
    return Request(
        request_id, "", list(prompt), Sampling(max_tokens=max_tokens, **sampling), **more
    )


def expected_outputs(request: Request, window: int | None = None) -> list[tuple[int, ...]]:
    """Compute the outputs of a request's samples without an engine.

    `window`: tokens that the model sees; None: all.
    """
    outputs = []
    for sample in range(request.num_samples):
        seed = (request.seed + sample * 0x9E3779B97F4A7C15) & ((1 << 63) - 1)
        ids = list(request.prompt_token_ids)
        for _ in range(request.sampling.max_tokens):
            ids.append(next_token(ids if window is None else ids[-window:], seed))
            if ids[-1] == STOP_ID and not request.sampling.ignore_eos:
                break
        outputs.append(tuple(ids[len(request.prompt_token_ids) :]))
    return outputs


def run_to_end(engine: LLMEngine, max_steps: int = 100_000) -> dict[int, RequestResult]:
    """Step until the engine is idle; returns results by request id."""
    for _ in range(max_steps):
        if not engine.has_work:
            break
        engine.step()
        engine.check_integrity()
    assert not engine.has_work, f"still busy after {max_steps} steps"
    return {result.request_id: result for result in engine.pop_update().results}


def run_model(spec: EngineSpec, requests: Iterable[Request]) -> tuple[list[RequestResult], Any]:
    """Run a real model; returns results by request id order, and totals. Checks for leaks."""
    requests = list(requests)
    engine = InProcessEngine.start(spec)
    engine.submit(requests)
    results: dict[int, RequestResult] = {}
    steps = []
    while True:
        update = engine.poll(60.0)
        assert not update.failures
        steps += update.steps
        results |= {result.request_id: result for result in update.results}
        if not update.num_running and not update.num_waiting:
            break
    engine.engine.check_integrity()
    assert update.blocks_used == 0
    assert sum(step.num_preempted for step in steps) == update.totals.num_preempted
    assert len(results) == len(requests)
    return [results[i] for i in sorted(results)], update.totals


@pytest.fixture
def shadow_engine() -> Callable[..., tuple[LLMEngine, ShadowRunner]]:
    return make_shadow_engine


@pytest.fixture
def request_of() -> Callable[..., Request]:
    return make_request


@pytest.fixture
def expected() -> Callable[[Request], list[tuple[int, ...]]]:
    return expected_outputs


@pytest.fixture
def finish() -> Callable[..., dict[int, RequestResult]]:
    return run_to_end


@pytest.fixture
def config_of() -> Callable[..., EngineConfig]:
    return make_config


@pytest.fixture
def run_all() -> Callable[..., tuple[list[RequestResult], Any]]:
    return run_model
