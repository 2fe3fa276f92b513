"""Lists the kernels that a GPU would compile before it is ready and in later runs; needs no GPU.

A process of its own, for launch_log. Prints one JSON document: phase to names of kernels.

Run: TRITON_INTERPRET=0 PYTHONPATH=... python specialised_kernels.py {qwen3|gemma2}
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from launch_log import LaunchLog

from thothy_batch.engine.core.config import EngineConfig, resolve_config
from thothy_batch.engine.execution.decode_graphs import DecodeGraphs
from thothy_batch.engine.execution.dummy_batches import DummyBatches
from thothy_batch.engine.execution.gpu_runner import GPURunner
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.model.config.model_config import kv_bytes_per_token, layer_groups
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import load_decoder
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling, SharedPrefix
from thothy_kernels.sample import SamplingTensors, triton_impl

_NUM_RUNS = 3
_TOKEN = 9
_DTYPE = "bfloat16"
_COMMON = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "dtype": _DTYPE,
}
_FAMILIES = {
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "head_dim": 128,
        "hidden_act": "silu",
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "num_attention_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}


def main() -> None:
    log = LaunchLog()
    _draw_one_token()
    with tempfile.TemporaryDirectory() as folder:
        shape = _COMMON | _FAMILIES[sys.argv[1]]
        Path(folder, "config.json").write_text(json.dumps(shape))
        runner, config = _loaded(folder)
    _start(runner, config)
    found = {"start": log.take_new()}
    for number in range(_NUM_RUNS):
        _run(runner, config, np.random.default_rng(number))
        found[f"run-{number}"] = log.take_new()
    print(json.dumps(found | {"num_launches": log.num_launches}))


def _draw_one_token() -> None:
    """No kernel runs, so what would be drawn is not written: always the same token instead."""
    launch = triton_impl.sample

    def sample(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
        return launch(logits, params).fill_(_TOKEN)

    triton_impl.sample = sample


class _Recomputed(DecodeGraphs):
    """Graphs without a device. A replay launches nothing new, as on one."""

    def __init__(self) -> None:
        self._captured: set[tuple[int, bool]] = set()

    def __contains__(self, key: tuple[int, bool]) -> bool:
        return key in self._captured

    def __len__(self) -> int:
        return len(self._captured)

    def capture(self, key: tuple[int, bool], step: Callable[[], None]) -> None:
        step()
        self._captured.add(key)

    def replay(self, key: tuple[int, bool]) -> None:
        assert key in self._captured


def _loaded(folder: str) -> tuple[GPURunner, EngineConfig]:
    spec = ModelSpec(id=folder, dtype=_DTYPE, random_weights=True)
    model = load_decoder(spec, device="cpu", impl="triton")
    config = resolve_config(
        EngineSpec(
            model=spec, device="cpu", impl="cpu", num_blocks=2000, max_seqs=96, max_step_tokens=2048
        ),
        dtype=_DTYPE,
        max_model_len=model.config.max_model_len,
        bytes_per_token=kv_bytes_per_token(model.config, _DTYPE),
        free_bytes=1 << 33,
        layer_groups=layer_groups(model.config),
    )
    kv = KVPool.allocate(
        model.config, config.num_pages, config.block_size, _DTYPE, "cpu", impl="triton"
    )
    runner = GPURunner(
        model.decoder, kv, config.layout, max_seqs=config.max_seqs, graphs=_Recomputed()
    )
    return runner, config


def _start(runner: GPURunner, config: EngineConfig) -> None:
    """Compute as an engine does before it is ready: the largest steps, warm-up, graphs."""
    batches = DummyBatches(config, config.pool_tokens)
    rows = batches.max_rows
    for batch in (batches.full_step(), batches.decode(rows, 1), batches.grouped_decode(rows, 1)):
        runner.run(batch)
    runner.warm_up(DummyBatches(config, 4 * config.block_size))
    runner.capture()


def _run(runner: GPURunner, config: EngineConfig, random: np.random.Generator) -> None:
    rules = StopChecker(frozenset(), None)
    engine = LLMEngine(config, runner, rules, vocab_size=1024, has_tokenizer=False)
    engine.submit(list(_requests(random)))
    while engine.has_work:
        engine.step()


def _requests(random: np.random.Generator) -> Iterator[Request]:
    """Groups of 1 to 17 over a beginning of two blocks, drawn in all ways; 1 or 3 samples."""
    request_id = 0
    for size in (1, 2, 3, 9, 17):
        head = random.integers(5, 1000, 64).tolist()
        for _ in range(size):
            own = random.integers(5, 1000, int(random.integers(1, 400))).tolist()
            sampling = _sampling(request_id, int(random.integers(3, 30)))
            num_samples = 3 if request_id % 7 == 0 and sampling.temperature else 1
            yield Request(
                request_id,
                "",
                head + own,
                sampling,
                seed=request_id,
                num_samples=num_samples,
                prefixes=(SharedPrefix(size, 64, size),),
            )
            request_id += 1


def _sampling(number: int, max_tokens: int) -> Sampling:
    ways = (
        {},
        {"temperature": 0.8},
        {"temperature": 0.8, "top_k": 20},
        {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
    )
    return Sampling(
        max_tokens=max_tokens, ignore_eos=True, repetition_stop=False, **ways[number % 4]
    )


if __name__ == "__main__":
    main()
