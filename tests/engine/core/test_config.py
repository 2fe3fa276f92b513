"""Settings are resolved once; an impossible one is refused by name."""

from typing import Any

import pytest

from thothy_batch.engine.core.config import EngineConfig, resolve_config, resolve_spec
from thothy_batch.engine.fake_model import ByteTokenizer
from thothy_batch.engine.hardware.gpu import Gpu
from thothy_batch.engine.model_info import model_info
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, ModelSpec

GIB = 1 << 30


def resolve(free_bytes: int = GIB, **settings: Any) -> EngineConfig:
    return resolve_config(
        resolve_spec(EngineSpec(**settings)),
        dtype="float32",
        max_model_len=4096,
        bytes_per_token=1024,
        free_bytes=free_bytes,
    )


def test_auto_picks_the_cpu_and_half_of_free_memory() -> None:
    config = resolve()
    assert (config.device, config.impl, config.admission) == ("cpu", "cpu", "reserve")
    assert (config.max_seqs, config.max_step_tokens) == (256, 2048)
    assert config.num_blocks == GIB // 2 // (1024 * 32)


@pytest.mark.parametrize(
    ("settings", "num_blocks"),
    [
        ({"kv_memory": 0.25}, GIB // 4 // 32768),
        ({"kv_memory": 10 * 32768 + 5}, 10),
        ({"num_blocks": 7, "kv_memory": 0.9}, 7),
        ({"needed_tokens": 1000}, 32 + 256),
        ({"needed_tokens": 1000, "max_seqs": 4}, 32 + 4),
        ({"needed_tokens": 10**9}, GIB // 2 // 32768),
        ({"needed_tokens": 1000, "kv_memory": 0.5}, GIB // 2 // 32768),
    ],
)
def test_the_pool_has_the_requested_or_the_needed_size(settings: Any, num_blocks: int) -> None:
    assert resolve(**settings).num_blocks == num_blocks


def test_no_more_sequences_run_than_a_step_has_tokens() -> None:
    assert resolve(max_step_tokens=7).max_seqs == 7


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"device": "cuda"}, "cuda"),
        ({"device": "tpu"}, "tpu"),
        ({"impl": "triton"}, "triton"),
        ({"impl": "magic"}, "magic"),
        ({"admission": "hopeful"}, "hopeful"),
        ({"block_size": 0}, "block_size"),
        ({"max_seqs": -1}, "max_seqs"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_known_ones(
    settings: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("thothy_batch.engine.core.config.find_gpu", lambda: None)
    with pytest.raises(ModelError, match=name) as error:
        resolve(**settings)
    assert error.value.hint


def test_a_gpu_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA H200", 141 * GIB, 140 * GIB, "570.1", "9.0", "GPU-1")
    monkeypatch.setattr("thothy_batch.engine.core.config.find_gpu", lambda: gpu)
    config = resolve()
    assert (config.device, config.impl) == ("cuda", "triton")
    assert (config.max_seqs, config.max_step_tokens) == (1024, 8192)
    assert config.num_blocks == int(GIB * 0.92) // 32768
    assert resolve(device="cpu").impl == "cpu"
    assert resolve(impl="flex").impl == "flex"
    with pytest.raises(ModelError, match="cpu does not compute on engine.device cuda"):
        resolve(impl="cpu")


def test_flex_and_the_interpreter_compute_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve(device="cpu", impl="triton").impl == "triton"
    assert resolve(device="cpu", impl="flex").impl == "flex"


def test_memory_for_less_than_a_block_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="no block"):
        resolve(free_bytes=1000)


def test_the_fake_model_has_limits_and_a_tokenizer_that_returns_every_text() -> None:
    info = model_info(EngineSpec(model=ModelSpec(id="builtin:fake?context=100")))
    assert info.max_model_len == 100
    tokenizer = info.tokenizer
    assert isinstance(tokenizer, ByteTokenizer)
    for text in ("plain", "Zażółć 日本語 😀", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_starting_the_package_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, thothy_batch.engine; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
