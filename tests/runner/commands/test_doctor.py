"""Doctor shows what it measures, and keeps it for later runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from document_schemas import check_document

from thothy_batch.cli.render_doctor import doctor_blocks
from thothy_batch.engine.calibration import device_limits, measured_model
from thothy_batch.engine.cost.cost_model import StepSpeed, model_work
from thothy_batch.engine.cost.measurement_cache import (
    MeasurementCache,
    SpeedKey,
    device_name,
)
from thothy_batch.engine.hardware.gpu import Gpu
from thothy_batch.errors import ManifestError, ModelError
from thothy_batch.model.config.model_config import load_config
from thothy_batch.records import DeviceLimits, ModelSpec
from thothy_batch.report.layout import to_text
from thothy_batch.runner.commands.doctor import diagnose, model_to_measure
from thothy_batch.runner.monitoring.progress import Silent

FIGURES = DeviceLimits(
    device="a device",
    threads=3,
    flops={"float32": 1.5e11, "bfloat16": 4e11},
    bandwidth=31.25e9,
    measured_at="2026-11-22T22:30:00+00:00",
)
SPEED = StepSpeed(
    linears=((1, 0.01), (4, 0.01), (8, 0.02), (16, 0.0), (32, 0.04)),
    head=((1, 0.001),),
    kv_byte_s=5e-11,
    pair_s=1e-9,
    shared_pair_s=1e-9,
    step_s=2e-4,
    row_s=3e-6,
    measured_at="2026-11-22T22:30:00+00:00",
)
TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
PLAIN = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
WINDOWED = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 16,
    "sliding_window": 512,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for the test instead of the user's own."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces measurements by constants."""
    monkeypatch.setattr(device_limits, "measure_device", lambda cache, device: FIGURES)
    monkeypatch.setattr(measured_model, "calibrate", lambda runner, config, work: SPEED)


def _model(folder: Path, settings: dict[str, Any]) -> ModelSpec:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY | settings))
    return ModelSpec(id=str(folder), random_weights=True)


def _diagnose(model: ModelSpec | None = None) -> dict[str, Any]:
    """The document as `--json` prints it."""
    found = diagnose(Silent(), model, owns_process=False)
    check_document("doctor", found)
    return dict(json.loads(json.dumps(found, allow_nan=False)))


@pytest.mark.rest
def test_a_device_is_measured_anew_and_kept_for_runs() -> None:
    found = _diagnose()
    threads = torch.get_num_threads()
    kept = MeasurementCache().load_device(device_name(), threads)
    assert kept is not None
    assert found["gflops"] == {n: round(flops / 1e9, 1) for n, flops in kept.flops.items()}
    assert set(found["gflops"]) == {"float32", "bfloat16", "int8"}
    assert found["bandwidth_gb_s"] == round(kept.bandwidth / 1e9, 2)
    assert min(*found["gflops"].values(), found["bandwidth_gb_s"]) > 0
    assert (found["threads"], found["measured_at"]) == (threads, kept.measured_at)
    assert (found["model"], found["notes"]) == (None, [])


def test_doctor_measures_again_where_figures_are_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = torch.get_num_threads()
    old = DeviceLimits(device_name(), threads, FIGURES.flops, 1e9, FIGURES.measured_at)
    MeasurementCache().store_device(old)
    monkeypatch.setattr(device_limits, "_bandwidth", lambda budget_s: 2e9)
    monkeypatch.setattr(device_limits, "_flops", lambda dtype, budget_s: 3e9)
    found = _diagnose()
    assert (found["bandwidth_gb_s"], found["gflops"]["float32"]) == (2.0, 3.0)


def test_without_a_model_nothing_is_calibrated(quick: None, cache_home: Path) -> None:
    found = _diagnose()
    assert (found["gflops"]["float32"], found["bandwidth_gb_s"]) == (150.0, 31.25)
    assert not list(cache_home.rglob("speed-*"))


def test_a_model_is_calibrated_under_the_key_that_its_runs_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_limits, "measure_device", lambda cache, device: FIGURES)
    spec = _model(tmp_path / "windowed", WINDOWED)
    found = _diagnose(spec)["model"]
    work = model_work(load_config(Path(spec.id)), "float32")
    key = SpeedKey(device_name(), torch.get_num_threads(), "cpu", "float32", work)
    kept = MeasurementCache().load_speed(key)
    assert kept is not None
    assert [list(point) for point in kept.linears] == found["speed"]["linears"]
    assert (found["name"], found["dtype"], found["impl"]) == ("windowed", "float32", "cpu")
    rows = [at["rows"] for at in found["linears"]]
    assert rows[0] == 1
    assert rows == sorted(set(rows))
    assert all(at["tokens_per_s"] > 0 for at in found["linears"])
    assert found["host_step_s"] > 0
    assert found["layer_groups"] == [
        {"num_layers": 1, "window": None},
        {"num_layers": 3, "window": 512},
    ]


def test_speeds_are_given_in_comparable_units(tmp_path: Path, quick: None) -> None:
    found = _diagnose(_model(tmp_path / "m", PLAIN))["model"]
    assert found["linears"] == [
        {"rows": 1, "tokens_per_s": 100.0},
        {"rows": 8, "tokens_per_s": 400.0},
        {"rows": 32, "tokens_per_s": 800.0},
    ]
    assert (found["kv_gb_s"], found["host_step_s"], found["host_row_s"]) == (20.0, 2e-4, 3e-6)


def test_the_gain_of_windows_is_shown_where_a_layer_has_one(tmp_path: Path, quick: None) -> None:
    """Contexts end at the model's longest; without windows every gain would be 1."""
    capacity = _diagnose(_model(tmp_path / "windowed", WINDOWED))["model"]["capacity"]
    assert [at["context"] for at in capacity] == [1024, 3072, 8192]
    # Four layers keep everything, against one that does and three that keep 512.
    assert capacity[0]["gain"] == round(4 * 1024 / (1024 + 3 * 512), 3)
    assert capacity[2]["gain"] == round(4 * 8192 / (8192 + 3 * 512), 3)
    assert _diagnose(_model(tmp_path / "plain", PLAIN))["model"]["capacity"] == []


def test_a_speed_too_high_to_measure_is_null(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = StepSpeed(
        linears=((1, 0.0),), head=((1, 0.0),), kv_byte_s=0, pair_s=0, shared_pair_s=0
    )
    monkeypatch.setattr(measured_model, "calibrate", lambda runner, config, work: nothing)
    found = _diagnose(_model(tmp_path / "m", PLAIN))["model"]
    assert (found["linears"], found["kv_gb_s"]) == ([], None)


@pytest.mark.rest
def test_a_cache_that_cannot_be_written_is_a_note(cache_home: Path) -> None:
    cache_home.write_text("a file where the folder should be")
    # On a busy machine earlier figures are looked for, too.
    (note,) = [text for text in _diagnose()["notes"] if "figures are not kept" in text]
    assert str(cache_home) in note


def test_a_bad_model_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(cache: MeasurementCache, device: str) -> DeviceLimits:
        raise AssertionError("measured")

    monkeypatch.setattr(device_limits, "measure_device", measure)
    spec = _model(tmp_path / "m", PLAIN)
    for bad in (
        ModelSpec(id=spec.id),  # no weights
        ModelSpec(id=str(tmp_path / "none")),
        _model(tmp_path / "unknown", {"architectures": ["RwkvForCausalLM"]}),
    ):
        with pytest.raises(ModelError):
            _diagnose(bad)


def test_options_make_a_model_or_are_bad_usage() -> None:
    assert model_to_measure(None, None, random_weights=False) is None
    found = model_to_measure("some/model", "bfloat16", random_weights=True)
    assert found == ModelSpec(id="some/model", dtype="bfloat16", random_weights=True)
    assert model_to_measure("m", None, random_weights=False) == ModelSpec(id="m")
    found = model_to_measure("m", None, "int8", random_weights=False)
    assert found == ModelSpec(id="m", quantization="int8")
    for options, word in (
        ((None, "float32", None, False), "--dtype"),
        ((None, None, "int8", False), "--quantization"),
        ((None, None, None, True), "--random-weights"),
        (("m", "float16", None, False), "float16"),
        (("m", None, "fp8", False), "fp8"),
    ):
        with pytest.raises(ManifestError, match=word):
            model_to_measure(*options[:3], random_weights=options[3])


def test_the_document_has_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the driver is faked: the CPU computes."""
    gpu = Gpu("NVIDIA H200", 141 << 30, 140 << 30, "570.86.15", "9.0", "GPU-1")
    monkeypatch.setattr(device_limits, "measure_device", lambda cache, device: FIGURES)
    monkeypatch.setattr("thothy_batch.runner.commands.doctor.find_gpu", lambda: gpu)
    found = _diagnose()
    assert found["gpu"] == {
        "name": "NVIDIA H200", "driver": "570.86.15", "capability": "9.0",
        "memory_gib": 141.0, "memory_free_gib": 140.0,
    }  # fmt: skip
    (line, *_) = to_text(doctor_blocks(found)).splitlines()
    assert line.startswith("gpu ")
    assert "NVIDIA H200 (compute capability 9.0, driver 570.86.15, 141.0 GiB memory" in line
    assert {"reference", "cpu", "flex"} <= set(found["impls"])
