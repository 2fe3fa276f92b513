"""A checkpoint is data: nothing in its folder is run, and a damaged file costs one sentence."""

import json
import resource
import shutil
import struct
from pathlib import Path

import pytest

from thothy_batch.engine.model_info import model_info
from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.locate import ModelFiles, locate_model
from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.fingerprint import model_fingerprint
from thothy_batch.model.loading import load_decoder
from thothy_batch.model.tokenizer.tokenizer import load_tokenizer
from thothy_batch.records import EngineSpec, ModelSpec
from thothy_batch.resources import data_path

CODE = "import pathlib\npathlib.Path({marker!r}).write_text('it ran')\n"
GOOD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_path("sample_data") / "model", tmp_path / "model"))


def weights(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.pkl", "model.ckpt"]
)
def test_pickled_weights_are_refused_by_name_and_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"c__builtin__\nexit\n(tR.")
    with pytest.raises(ModelError, match="only safetensors are read") as caught:
        locate_model(ModelSpec(id=str(folder)))
    assert name in caught.value.message


def test_code_beside_a_checkpoint_never_runs(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for module in ("modeling_own", "configuration_own", "tokenization_own", "conftest", "torch"):
        (folder / f"{module}.py").write_text(CODE.format(marker=str(marker)))
    for file, auto_map in (
        (
            "config.json",
            {"AutoConfig": "configuration_own.C", "AutoModelForCausalLM": "modeling_own.M"},
        ),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_own.T", None]}),
    ):
        settings = json.loads((folder / file).read_text())
        changed = {**settings, "auto_map": auto_map, "trust_remote_code": True}
        (folder / file).write_text(json.dumps(changed))
    spec = ModelSpec(id=str(folder))
    info = model_info(EngineSpec(model=spec, device="cpu"))
    assert info.tokenizer is not None
    assert info.tokenizer.encode("a text")
    load_decoder(spec, device="cpu", impl="reference")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        weights({}, length=2**63),
        weights({}, length=200 << 20),
        weights({"a": GOOD}, length=9_999),
        weights(b"[" * 100_000),
        weights([]),
        weights({"a": []}),
        weights({"a": None}),
        weights({"a": {"dtype": "F32", "shape": [1]}}),
        weights({"a": {**GOOD, "data_offsets": ["0", "4"]}}),
        weights({"a": {**GOOD, "data_offsets": [None, 4]}}),
        weights({"a": {**GOOD, "data_offsets": [4, 0]}}),
        weights({"a": {**GOOD, "data_offsets": [-4, 0]}}),
        weights({"a": {**GOOD, "data_offsets": [0, 2**62]}}),
        weights({"a": GOOD, "b": {**GOOD, "data_offsets": [2, 6]}}),
        weights({"a": GOOD, "b": GOOD}),
    ],
    ids=range(17),
)
def test_a_malformed_file_is_named_before_anything_is_allocated(
    folder: Path, content: bytes
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for need in (
        lambda: locate_model(ModelSpec(id=str(folder))),
        lambda: load_decoder(ModelSpec(id=str(folder)), device="cpu", impl="reference"),
    ):
        with pytest.raises(ModelError) as caught:
            need()
        assert "model.safetensors" in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000


@pytest.mark.rest
def test_a_wrong_header_length_does_not_make_a_plan_read_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan` needs no weights, only their fingerprint."""
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 2**62))
        file.truncate(2 << 30)
    files = ModelFiles(folder, None, "x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert model_fingerprint(files, load_config(folder), "float32", ModelSpec(id=str(folder)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600_000


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "model.bin", "a/b.safetensors"]
)
def test_an_index_names_files_beside_it(folder: Path, name: str) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="beside it"):
        locate_model(ModelSpec(id=str(folder)))


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"[" * 100_000, b"{}", b"\xff\xfe"])
def test_a_tokenizer_is_json_or_refused(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_json_nested_without_end_is_refused(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"[" * 100_000)
    with pytest.raises(ModelError, match="not valid JSON"):
        model_info(EngineSpec(model=ModelSpec(id=str(folder)), device="cpu"))
