"""The fingerprint changes with what changes the output, and with nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.model import fingerprint
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.fingerprint import model_fingerprint
from thothy_batch.records import ModelSpec


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., tuple[Path, Any]], tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(make_checkpoint("llama")[0], tmp_path / "one"))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def _of(directory: Path, dtype: str = "float32", commit: str | None = None, **spec: Any) -> str:
    files = ModelFiles(directory, commit, directory.name)
    return model_fingerprint(files, load_config(directory), dtype, ModelSpec(**spec))


def test_it_does_not_depend_on_the_place(checkpoint: Path, tmp_path: Path) -> None:
    before = _of(checkpoint)
    assert len(before) == 32
    assert _of(Path(shutil.copytree(checkpoint, tmp_path / "two"))) == before


def test_it_depends_on_settings(checkpoint: Path) -> None:
    seen = {
        _of(checkpoint),
        _of(checkpoint, "bfloat16"),
        _of(checkpoint, quantization="int8"),
        _of(checkpoint, random_weights=True),
        _of(checkpoint, random_weights=True, seed=1),
        _of(checkpoint, commit="a" * 40),
        _of(checkpoint, commit="b" * 40),
    }
    assert len(seen) == 7


def test_it_depends_on_config_tokenizer_and_stop_ids(
    checkpoint: Path, edit_json: Callable[..., None]
) -> None:
    seen = {_of(checkpoint)}
    edit_json(checkpoint / "config.json", rms_norm_eps=1e-4)
    seen.add(_of(checkpoint))
    (checkpoint / "tokenizer.json").write_text("{ }")
    seen.add(_of(checkpoint))
    (checkpoint / "chat_template.jinja").write_text("x")
    seen.add(_of(checkpoint))
    edit_json(checkpoint / "generation_config.json", eos_token_id=17)
    seen.add(_of(checkpoint))
    assert len(seen) == 5


def test_it_does_not_depend_on_what_changes_no_output(
    checkpoint: Path, edit_json: Callable[..., None]
) -> None:
    before = _of(checkpoint)
    edit_json(checkpoint / "config.json", transformers_version="9.9")
    (checkpoint / "README.md").write_text("x")
    assert _of(checkpoint) == before


@pytest.mark.parametrize("whole_bytes", [1 << 20, 0])
def test_one_changed_weight_page_shows(
    whole_bytes: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", whole_bytes)
    before = _of(checkpoint)
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    for place in (20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        files = ModelFiles(checkpoint, None, "x")
        assert model_fingerprint(files, load_config(checkpoint), "float32", ModelSpec()) != before


def test_weights_of_a_commit_are_not_read(checkpoint: Path) -> None:
    before = _of(checkpoint, commit="a" * 40)
    (checkpoint / "model.safetensors").unlink()
    assert _of(checkpoint, commit="a" * 40) == before
    config = replace(load_config(checkpoint), rms_norm_eps=0.5)
    files = ModelFiles(checkpoint, "a" * 40, "x")
    assert model_fingerprint(files, config, "float32", ModelSpec()) != before
