"""Launch settings of a device are measured once and kept; what goes wrong is a note.

The operations are made up, and so is the clock, but for one start with those of a small model.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.engine.cost.measurement_cache import MeasurementCache
from thothy_batch.engine.execution import kernel_autotune
from thothy_batch.engine.execution.kernel_autotune import choose_settings, tune_kernels
from thothy_batch.logs import collected_warnings
from thothy_batch.model.config.model_config import ModelConfig, load_config
from thothy_batch.model.kv_pool import KVPool
from thothy_kernels import tuning
from thothy_kernels.launch import is_interpreted
from thothy_kernels.tuning import LaunchSettings, Trial

DEVICE = "NVIDIA Example 80GB"
DEFAULT, FAST, OTHER = LaunchSettings(tile=64), LaunchSettings(tile=128), LaunchSettings(tile=32)


@pytest.fixture(autouse=True)
def _empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_table", {})


class Bench:
    """Operations that take as long as their tile says; a clock that counts what was measured."""

    def __init__(self, folder: Path, budget_s: float = 30.0) -> None:
        self.folder, self.budget_s = folder, budget_s
        self.measured: list[tuple[str, LaunchSettings]] = []
        self.now = 0.0

    def trial(self, op: str) -> Trial:
        def launch() -> tuple[torch.Tensor, ...]:
            self.current = op, tuning.settings_of(op, "N64", DEFAULT)
            return (torch.ones(3),)

        return Trial(op, "N64", (DEFAULT, OTHER, FAST), lambda: launch)

    def timer(self, launch: Callable[[], object]) -> float:
        launch()
        self.measured.append(self.current)
        self.now += 1.0
        return 1.0 / self.current[1].tile

    def start(self, *ops: str, device: str = DEVICE) -> list[str]:
        """Choose settings as an engine does before it is ready; returns the notes."""
        tuning._table.clear()
        self.measured.clear()
        cache = MeasurementCache(self.folder)
        trials = [self.trial(op) for op in ops]
        with collected_warnings() as warnings:
            notes = choose_settings(
                trials, cache, device, self.budget_s, self.timer, lambda: self.now
            )
        return [*warnings, *notes]

    def used(self, op: str) -> LaunchSettings:
        return tuning.settings_of(op, "N64", DEFAULT)

    @property
    def file(self) -> Path:
        return self.folder / "kernels-nvidia-example-80gb.json"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_second_start_measures_nothing(bench: Bench) -> None:
    notes = bench.start("attend", "norm")
    assert len(bench.measured) == 6
    assert "attend 7812.5 us with tile 128" in notes[0]
    assert bench.start("norm", "attend") == []
    assert bench.measured == []
    assert bench.used("attend") == bench.used("norm") == FAST


def test_only_what_is_new_is_measured_and_the_rest_is_kept(bench: Bench) -> None:
    bench.start("attend")
    bench.start("norm")
    assert {op for op, _ in bench.measured} == {"norm"}
    assert bench.used("attend") == DEFAULT, "only what the model launches is in the table"
    assert bench.start("attend", "norm") == []
    assert bench.measured == []


def test_a_later_start_resumes_the_search(bench: Bench) -> None:
    bench.budget_s = 5.0  # of six candidates
    notes = bench.start("attend", "norm", "rope")
    assert "did not suffice for norm, rope" in notes[-1]
    assert bench.used("attend") == FAST
    assert bench.used("norm") == DEFAULT, "the best of what was measured"
    assert not any("norm" in line for line in bench.file.read_text().splitlines())
    bench.start("attend", "norm", "rope")
    assert [op for op, _ in bench.measured] == ["norm"] * 3 + ["rope"] * 2
    bench.start("attend", "norm", "rope")
    assert [op for op, _ in bench.measured] == ["rope"] * 3


@pytest.mark.parametrize("name", ["device", "torch", "triton", "kernels"])
def test_settings_of_another_key_are_measured_again(bench: Bench, name: str) -> None:
    bench.start("attend")
    document = json.loads(bench.file.read_text())
    document["key"][name] = "another"
    bench.file.write_text(json.dumps(document))
    notes = bench.start("attend")
    assert "another version or device" in notes[0]
    assert len(bench.measured) == 3
    assert bench.start("attend") == []


def test_devices_have_a_file_each(bench: Bench) -> None:
    bench.start("attend")
    bench.start("attend", device="NVIDIA Other")
    assert len(bench.measured) == 3
    bench.start("attend")
    assert bench.measured == []


@pytest.mark.parametrize(
    "change",
    [
        {"tile": 48}, {"tile": 1 << 20}, {"warps": 0}, {"stages": 9}, {"rows": "1"},
        {"unknown": 1}, {"programs": None},
    ],
)  # fmt: skip
def test_an_edited_file_is_measured_again(bench: Bench, change: dict[str, Any]) -> None:
    bench.start("attend")
    document = json.loads(bench.file.read_text())
    document["value"]["attend"]["N64"] |= change
    bench.file.write_text(json.dumps(document))
    notes = bench.start("attend")
    assert "is not as it was written" in notes[0]
    assert len(bench.measured) == 3
    assert bench.used("attend") == FAST


def test_settings_that_are_no_candidate_are_measured_again(bench: Bench) -> None:
    """They may be in range and yet not what the kernel can be compiled with."""
    bench.start("attend")
    document = json.loads(bench.file.read_text())
    document["value"]["attend"]["N64"]["tile"] = 16
    bench.file.write_text(json.dumps(document))
    bench.start("attend")
    assert len(bench.measured) == 3
    assert bench.used("attend") == FAST


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 2}'])
def test_a_file_of_another_program_is_a_note(bench: Bench, content: bytes) -> None:
    bench.file.write_bytes(content)
    notes = bench.start("attend")
    assert "is not as it was written" in notes[0]
    assert bench.used("attend") == FAST
    assert bench.start("attend") == []


def test_an_unreadable_file_is_a_note(bench: Bench) -> None:
    bench.file.mkdir()
    notes = bench.start("attend")
    assert "cannot be read" in notes[0]
    assert bench.used("attend") == FAST


def test_an_unwritable_folder_is_a_note(bench: Bench) -> None:
    blocked = bench.folder / "file"
    blocked.touch()
    bench.folder = blocked / "folder"
    notes = bench.start("attend")
    assert any("cannot be written" in note for note in notes)
    assert bench.used("attend") == FAST


SETTINGS = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    return load_config(folder)


def test_a_model_too_small_to_matter_is_not_measured(tmp_path: Path, config: ModelConfig) -> None:
    config = replace(config, max_position_embeddings=512)
    kv = KVPool.allocate(config, 200, 16, "float32")

    def timer(launch: object) -> float:
        raise AssertionError

    assert tune_kernels(config, kv, cache_folder=tmp_path, timer=timer) == []
    assert list(tmp_path.iterdir()) == [], "nothing was measured, so there is nothing to keep"


def test_no_error_fails_a_start(
    tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Trial]:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(kernel_autotune, "_trials", broken)
    kv = KVPool.allocate(config, 4, 16, "float32")
    with collected_warnings() as warnings:
        assert tune_kernels(config, kv, cache_folder=tmp_path) == []
    assert "the driver is gone" in warnings[0]


@pytest.mark.skipif(not is_interpreted(), reason="computes on CPU tensors")
def test_all_operations_of_a_model_are_measured(
    tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their trials are built for the model; that they compute right is tested with the kernels."""
    kv = KVPool.allocate(config, 80, 16, "float32")
    measured = []

    def started(trial: Trial, *_: object) -> tuning.Tuned:
        measured.append((trial.op, trial.key))
        return tuning.Tuned(trial, dict.fromkeys(trial.candidates, 1.0))

    monkeypatch.setattr(kernel_autotune, "search", started)
    assert tune_kernels(config, kv, cache_folder=tmp_path) == []
    assert measured == [
        ("paged_attention.decode", "H2 K1 D16 P16 torch.float32"),
        ("paged_attention.prefill", "H2 K1 D16 P16 torch.float32"),
        ("sample.scan", "V300"),
        ("rms_norm", "N32 torch.float32"),
        ("gated_activation", "F32 torch.float32"),
        ("rope_and_write_kv", "H2 K1 D16 torch.float32"),
    ]
    measured.clear()
    tune_kernels(config, kv, cache_folder=tmp_path)
    assert measured == []
