"""A model whose KV memory is simulated, so that a wrong block shows in the next token."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from thothy_batch.engine.batch import Batch
from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.fake import ByteTokenizer
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.stop_rules import StopRules
from thothy_batch.records import Request, RequestResult, Sampling

STOP_ID = 0
VOCAB = 16


def next_token(context: Sequence[int], seed: int) -> int:
    """The model: any change anywhere in the context changes what follows."""
    return zlib.crc32(np.asarray([*context, seed], np.int64).tobytes()) % VOCAB


class ShadowRunner:
    """Keeps in every slot the token whose KV would lie there, and reads contexts from there."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.kv = np.full((num_blocks, block_size), -1, np.int64)
        self.fail_next = False
        self.num_tokens: list[int] = []  # of each step

    def run(self, batch: Batch) -> np.ndarray:
        for source, target in batch.copies:
            self.kv[target] = self.kv[source]
        flat = self.kv.reshape(-1)
        assert len(set(batch.slot_mapping.tolist())) == len(batch.slot_mapping)
        flat[batch.slot_mapping] = batch.token_ids
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the forward pass failed")
        self.num_tokens.append(len(batch.token_ids))
        drawn = []
        for row, token_row in enumerate(batch.logits_rows.tolist()):
            seq = int(np.searchsorted(batch.cu_seqlens, token_row, side="right")) - 1
            length = int(batch.positions[token_row]) + 1
            assert length <= batch.context_lens[seq]
            assert length == batch.sample_positions[row]
            table = batch.block_tables[seq]
            context = self.kv[table[: -(-length // self.block_size)]].reshape(-1)[:length]
            drawn.append(next_token(context.tolist(), int(batch.seeds[row])))
        return np.array(drawn, np.int64)


def make_config(**settings: Any) -> EngineConfig:
    defaults = {
        "device": "cpu",
        "impl": "reference",
        "dtype": "float32",
        "block_size": 4,
        "num_blocks": 64,
        "max_seqs": 8,
        "max_step_tokens": 32,
        "max_model_len": 256,
        "admission": "reserve",
        "prefix_sharing": True,
    }
    return EngineConfig(**(defaults | settings))


def make_shadow_engine(**settings: Any) -> tuple[LLMEngine, ShadowRunner]:
    config = make_config(**settings)
    runner = ShadowRunner(config.num_blocks, config.block_size)
    rules = StopRules({STOP_ID}, ByteTokenizer())
    return LLMEngine(config, runner, rules, vocab_size=VOCAB), runner


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


def expected_outputs(request: Request) -> list[tuple[int, ...]]:
    """What the samples of a request must come to, computed without an engine."""
    outputs = []
    for sample in range(request.num_samples):
        seed = (request.seed + sample * 0x9E3779B97F4A7C15) & ((1 << 63) - 1)
        ids = list(request.prompt_token_ids)
        for _ in range(request.sampling.max_tokens):
            ids.append(next_token(ids, seed))
            if ids[-1] == STOP_ID and not request.sampling.ignore_eos:
                break
        outputs.append(tuple(ids[len(request.prompt_token_ids) :]))
    return outputs


def run_to_end(engine: LLMEngine, max_steps: int = 100_000) -> dict[int, RequestResult]:
    """Step until nothing is left to do; results by request id."""
    for _ in range(max_steps):
        if not engine.has_work:
            break
        engine.step()
        engine.check_integrity()
    assert not engine.has_work, f"still busy after {max_steps} steps"
    return {result.request_id: result for result in engine.take_update().results}


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
