"""The device's runner, in Triton's interpreter: the tokens of the CPU, and no wait for the device.

The interpreter takes a tenth of a second for a small kernel: the model has one layer, or two where
they differ, and what is compared is what only this runner does.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from device_tensor import HostWaitError, pretended_device, there

from thothy_batch.engine.core.config import ops_impl, resolve_config, resolve_spec
from thothy_batch.engine.execution.decode_graphs import bucket_of, row_buckets
from thothy_batch.engine.execution.gpu_runner import GPURunner
from thothy_batch.engine.execution.host_to_device import PackedLayout, upload
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.errors import EngineError
from thothy_batch.model.config.model_config import kv_bytes_per_token, layer_groups
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import load_decoder
from thothy_batch.records import EngineSpec, ModelSpec, Request, RequestResult, Sampling

TINY = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rope_theta": 10_000.0,
    "max_position_embeddings": 128, "tie_word_embeddings": False, "bos_token_id": None,
    "eos_token_id": 7, "pad_token_id": None,
}  # fmt: skip


WINDOWED = TINY | {
    "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 6, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 20.0,
    "final_logit_softcapping": 10.0,
}  # fmt: skip


def save(config: Any, directory: Path) -> Path:
    """A random model whose draws differ: token 7 ends a completion."""
    import transformers

    torch.manual_seed(4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    return save(transformers.LlamaConfig(**TINY), tmp_path_factory.mktemp("tiny"))


def mixed_requests() -> list[Request]:
    """Rows that share their prompt, samples, penalties, ends at a stop token and at the last."""
    shared = [5, 9, 33, 60, 2, 2, 41, 17]
    drawn = Sampling(temperature=0.9, top_k=20, max_tokens=7, repetition_stop=False)
    greedy = Sampling(max_tokens=9, repetition_penalty=1.4, repetition_stop=False)
    exact = Sampling(max_tokens=6, ignore_eos=True, repetition_stop=False)
    return [
        Request(0, "", [*shared, 3], drawn, seed=11, num_samples=3),
        Request(1, "", [*shared, 4, 4], greedy, seed=12),
        Request(2, "", [70, 7, 1], exact, seed=13),
        Request(3, "", [71], drawn, seed=14),
    ]


TOGETHER = {"num_blocks": 60, "block_size": 4}
PREEMPTING = {
    "num_blocks": 9, "block_size": 4, "admission": "optimistic", "max_step_tokens": 5,
}  # fmt: skip


@pytest.mark.rest
def test_the_device_draws_the_tokens_of_the_cpu(checkpoint: Path, run_all: Any) -> None:
    model = ModelSpec(id=str(checkpoint))
    wanted, _ = run_all(EngineSpec(model=model, impl="cpu", **TOGETHER), mixed_requests())
    found, totals = run_all(EngineSpec(model=model, impl="triton", **TOGETHER), mixed_requests())
    assert completions(found) == completions(wanted)
    assert totals.output_tokens == sum(result.output_tokens for result in wanted)
    assert totals.wasted_tokens > 0, "an early end shows some steps late"


@pytest.mark.rest
def test_layers_with_windows_and_caps_draw_the_tokens_of_the_cpu(
    tmp_path: Path, run_all: Any
) -> None:
    """Rows share beginnings in the layers that see everything, and in no others."""
    import transformers

    model = ModelSpec(id=str(save(transformers.Gemma2Config(**WINDOWED), tmp_path)))
    wanted, _ = run_all(EngineSpec(model=model, impl="cpu", **TOGETHER), mixed_requests()[:2])
    found, _ = run_all(EngineSpec(model=model, impl="triton", **TOGETHER), mixed_requests()[:2])
    assert completions(found) == completions(wanted)


@pytest.mark.rest
def test_a_golden_prompt_continues_as_the_reference_did(shared: Path, run_all: Any) -> None:
    """The first tokens: the interpreter takes a second for each."""
    directory = shared / "data" / "weights" / "stories260K"
    line = (directory / "golden_greedy.jsonl").read_text().splitlines()[0]
    row, exact = json.loads(line), Sampling(max_tokens=4, ignore_eos=True, repetition_stop=False)
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl="triton", num_blocks=40)
    results, _ = run_all(spec, [Request(0, "", row["prompt_token_ids"], exact)])
    assert completions(results) == [[tuple(row["output_token_ids"][:4])]]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("impl", "way"), [("reference", TOGETHER), ("reference", PREEMPTING), ("flex", TOGETHER)]
)
def test_other_kernels_run_step_by_step_on_the_same_state(
    checkpoint: Path, impl: str, way: dict[str, Any], run_all: Any
) -> None:
    """Without kernels that read everything on the device, steps are built on the host."""
    spec = EngineSpec(model=ModelSpec(id=str(checkpoint)), impl="cpu", **way)
    wanted, _ = run_all(spec, mixed_requests())
    engine, _ = device_engine(spec, "cpu", impl, ops="reference")
    assert tokens_of(engine, mixed_requests()) == completions(wanted)
    assert (engine.totals.num_preempted > 0) == (way is PREEMPTING)


@pytest.mark.rest
def test_nothing_waits_for_the_device(checkpoint: Path, run_all: Any) -> None:
    """Every tensor of the device raises where the host would wait for it."""
    spec = EngineSpec(model=ModelSpec(id=str(checkpoint)), impl="cpu", **TOGETHER)
    wanted, _ = run_all(spec, mixed_requests()[:2])
    with pretended_device() as device:
        engine, runner = device_engine(spec, str(device), "triton")
        found = tokens_of(engine, mixed_requests()[:2])
        with pytest.raises(HostWaitError):
            runner._state.last_tokens.tolist()
    assert found == completions(wanted)


@pytest.mark.rest
def test_a_launch_that_fails_midway_is_the_end_of_its_runner(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state on the device is ahead of what was counted: nothing right could follow."""
    spec = EngineSpec(model=ModelSpec(id=str(checkpoint)), impl="cpu", **TOGETHER)
    engine, runner = device_engine(spec, "cpu", "triton")
    compute, fails = runner._compute_fixed, iter((False, False, True))

    def flaky(*args: Any) -> None:
        if next(fails):
            raise RuntimeError("a step failed")
        compute(*args)

    monkeypatch.setattr(runner, "_compute_fixed", flaky)
    engine.submit(mixed_requests()[2:3])
    with pytest.raises(RuntimeError, match="a step failed"):
        tokens_of(engine, [])
    with pytest.raises(EngineError, match="must be restarted"):
        engine.step()


class RunAgain:
    """In place of CUDA's graphs: a captured step is computed again when it is replayed."""

    def __init__(self) -> None:
        self.steps: dict[tuple[int, bool], Any] = {}
        self.num_replayed = 0

    def __contains__(self, key: tuple[int, bool]) -> bool:
        return key in self.steps

    def capture(self, key: tuple[int, bool], step: Any) -> None:
        step()
        self.steps[key] = step

    def replay(self, key: tuple[int, bool]) -> None:
        self.num_replayed += 1
        self.steps[key]()


@pytest.mark.rest
def test_captured_steps_are_replayed_over_the_same_buffers(checkpoint: Path, run_all: Any) -> None:
    spec = EngineSpec(model=ModelSpec(id=str(checkpoint)), impl="cpu", **TOGETHER)
    wanted, _ = run_all(spec, mixed_requests()[:1])
    graphs = RunAgain()
    # The samples are three.
    engine, runner = device_engine(spec, "cpu", "triton", graphs=graphs, buckets=[4])
    runner.capture()
    assert set(graphs.steps) == {(4, True), (4, False)}
    assert tokens_of(engine, mixed_requests()[:1]) == completions(wanted)
    assert graphs.num_replayed > 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.item(), lambda t: t.tolist(), lambda t: t.cpu(), lambda t: t.numpy(),
        lambda t: bool(t), lambda t: int(t), lambda t: t.nonzero(), lambda t: t.to("cpu"),
        lambda t: torch.zeros(1).copy_(t), lambda t: t[t > 0], lambda t: float(t),
    ],
)  # fmt: skip
def test_a_pretended_device_notices_every_wait(wait: Any) -> None:
    with pretended_device() as device:
        tensor = torch.ones(1, device=device) + there(torch.ones(1))
        with pytest.raises(HostWaitError):
            wait(tensor)


def device_engine(
    spec: EngineSpec, device: str, impl: str, ops: str = "triton", **more: Any
) -> tuple[LLMEngine, GPURunner]:
    """An engine over a device's runner, which `spec` alone would not give."""
    model = load_decoder(spec.model, device=device, impl=ops, attention_impl=impl)
    config = resolve_config(
        resolve_spec(spec),
        dtype=model.dtype,
        max_model_len=model.config.max_model_len,
        bytes_per_token=kv_bytes_per_token(model.config, model.dtype),
        free_bytes=1 << 30,
        layer_groups=layer_groups(model.config),
    )
    kv = KVPool.allocate(
        model.config, config.num_pages, config.block_size, model.dtype, device, impl=ops
    )
    runner = GPURunner(model.decoder, kv, config.layout, max_seqs=config.max_seqs, **more)
    rules = StopChecker(model.stop_token_ids, None)
    engine = LLMEngine(
        config, runner, rules, vocab_size=model.config.vocab_size, has_tokenizer=False
    )
    return engine, runner


def completions(results: list[RequestResult]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in result.completions] for result in results]


def tokens_of(engine: LLMEngine, requests: list[Request]) -> list[list[tuple[int, ...]]]:
    engine.submit(requests)
    while engine.has_work:
        engine.step()
        engine.check_integrity()
    results = {result.request_id: result for result in engine.pop_update().results}
    return completions([results[request.request_id] for request in requests])


def test_buckets_hold_every_number_of_rows_and_waste_little() -> None:
    for most in (1, 3, 64, 256, 700, 1500):
        buckets = row_buckets(most)
        assert buckets == sorted(set(buckets))
        assert buckets[-1] == most
        for rows in range(1, most + 1):
            bucket = bucket_of(rows, buckets)
            assert rows <= bucket <= max(2 * rows, rows + 7)
            assert rows < 64 or bucket <= rows * 1.25


def test_arrays_arrive_in_one_piece() -> None:
    import numpy as np

    arrays = {
        "a": np.arange(7, dtype=np.int32),
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "c": np.empty((0, 4), np.int32),
        "d": np.array([1 << 40], np.int64),
    }
    found = upload(arrays, torch.device("cpu"))
    for name, array in arrays.items():
        assert torch.equal(found[name], torch.from_numpy(array))
    with pytest.raises(AssertionError, match="a is"):
        PackedLayout(arrays).pack(arrays | {"a": np.arange(8, dtype=np.int32)})


def test_flex_is_an_implementation_of_attention_alone() -> None:
    assert (ops_impl("flex", "cpu"), ops_impl("flex", "cuda")) == ("cpu", "triton")
    assert ops_impl("reference", "cuda") == "reference"


def test_a_row_without_a_usable_logit_ends_the_engine_with_a_sentence(checkpoint: Path) -> None:
    """A device draws -1 for it, and cannot raise."""
    spec = EngineSpec(model=ModelSpec(id=str(checkpoint)), impl="cpu", **TOGETHER)
    engine, runner = device_engine(spec, "cpu", "reference", ops="reference")
    runner._decoder._final_norm_N.fill_(float("nan"))
    runner._decoder.impl = "triton"  # of sampling: the reference raises at once
    engine.submit(mixed_requests()[2:3])
    with pytest.raises(EngineError, match="not finite"):
        tokens_of(engine, [])
