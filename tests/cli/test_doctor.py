"""`doctor` as a command, and its text."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.cli.render_doctor import doctor_blocks
from thothy_batch.report.layout import to_text

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
MODEL = {
    "name": "tiny",
    "architecture": "LlamaForCausalLM",
    "num_parameters": 12345,
    "dtype": "float32",
    "quantization": "none",
    "impl": "cpu",
    "linears": [{"rows": 1, "tokens_per_s": 99.96}, {"rows": 512, "tokens_per_s": 12345.6}],
    "kv_gb_s": 12.34,
    "host_step_s": 0.00021,
    "host_row_s": 0.0000034,
    "capacity": [{"context": 3072, "gain": 3.27}, {"context": 8192, "gain": 4.571}],
}
FOUND: dict[str, Any] = {
    **{
        "gpu": None,
        "device": "cpu",
        "cpu_name": "a cpu",
        "cores": 2,
        "threads": 2,
        "auto_impl": "cpu",
    },
    **{"memory_gib": 24.0, "memory_free_gib": 20.0, "impls": ["reference", "cpu"]},
    **{"gflops": {"float32": 187.6, "bfloat16": 433.0}, "bandwidth_gb_s": 33.46},
    **{"load": None, "limits_of_runs_at": None, "versions": {"torch": "2"}},
    **{"model": None, "notes": [], "warnings": []},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory without weights."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "m"


def call(home: Path, *args: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "thothy_batch", "doctor", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        env=env,
    )


@pytest.mark.rest
def test_a_model_is_measured_into_one_document(model: Path, tmp_path: Path) -> None:
    done = call(tmp_path, "--model", model, "--random-weights", "--dtype", "bfloat16", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["threads"], found["model"]["threads"]) == (1, 1)
    assert found["model"]["dtype"] == "bfloat16"
    assert found["model"]["linears"][0]["rows"] == 1
    assert "measuring" in done.stderr
    assert len(list((tmp_path / "cache" / "thothy-batch").iterdir())) == 2  # device and speed


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--model", "{model}", "--dtype", "int8"], "int8"),
        (["--random-weights"], "--model"),
        (["--modle", "x"], "--modle"),
        (["--model", "{model}"], "model.safetensors"),
    ],
)
def test_bad_usage_and_a_bad_model_are_exit_code_2(
    model: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    done = call(tmp_path, *(arg.format(model=model) for arg in args))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "cache").exists()


def doctor_text(found: Any) -> str:
    return to_text(doctor_blocks(found))


def test_the_text_shows_figures_in_their_units() -> None:
    found = FOUND | {"model": MODEL, "notes": ["not kept"]}
    lines = [" ".join(line.split()) for line in doctor_text(found).splitlines()]
    for line in (
        "float32 linears 188 GFLOP/s at most",
        "memory bandwidth 33.5 GB/s (reading)",
        "model tiny (LlamaForCausalLM, 12,345 parameters, float32, cpu kernels)",
        "1 100.0",
        "512 12,346",
        "KV reads 12.3 GB/s while decoding",
        "host overhead 0.21 ms a step, 0.003 ms a row",
        "3,072 3.27x",
        "8,192 4.57x",
        "note: not kept",
    ):
        assert line in lines, line


def test_the_text_omits_unmeasured_figures() -> None:
    assert "model" not in doctor_text(FOUND)
    text = doctor_text(FOUND | {"model": {**MODEL, "linears": [], "kv_gb_s": None, "capacity": []}})
    for word in ("tokens/s", "KV"):
        assert word not in text


def test_untrusted_text_is_escaped() -> None:
    nasty = "\x1b[2J\n\x07"
    model = {**MODEL, "name": nasty, "architecture": nasty}
    text = doctor_text(FOUND | {"model": model, "notes": [nasty], "warnings": [nasty]})
    assert all(character == "\n" or character.isprintable() for character in text)


def test_a_bad_model_is_refused_before_torch_is_imported(model: Path, tmp_path: Path) -> None:
    """Importing torch takes seconds, and so does measuring."""
    (model / "tokenizer.json").write_text("{}")
    program = (
        "import sys; from thothy_batch.records import ModelSpec; from thothy_batch import errors\n"
        "from thothy_batch.engine.model_info import check_small_files\n"
        "try:\n    check_small_files(ModelSpec(id=sys.argv[1]))\n"
        "except errors.ModelError as error:\n    print(error.message, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "tokenizer.json cannot be used" in done.stdout
    assert done.stdout.endswith("False\n")
