"""Models are found in folders and hub caches; an incomplete one is reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint import locate
from thothy_batch.model.checkpoint.files import weight_files
from thothy_batch.model.checkpoint.locate import locate_model
from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.config.supported_model import locate_supported
from thothy_batch.model.fingerprint import model_fingerprint
from thothy_batch.model.weight_source import load_weights
from thothy_batch.records import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Make = Callable[..., tuple[Path, Any]]


@pytest.fixture
def checkpoint(make_checkpoint: Make, tmp_path: Path) -> Path:
    """A copy of a small checkpoint to damage."""
    return Path(shutil.copytree(make_checkpoint("llama")[0], tmp_path / "tiny-llama"))


@pytest.fixture
def sharded(make_checkpoint: Make, tmp_path: Path) -> Path:
    _, oracle = make_checkpoint("llama")
    oracle.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    return tmp_path / "sharded"


def test_a_directory_is_taken_as_it_is(checkpoint: Path) -> None:
    files = locate_model(ModelSpec(id=str(checkpoint)))
    assert (files.directory, files.commit, files.name) == (checkpoint, None, "tiny-llama")


def test_no_id_means_the_embedded_model(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "data_path", lambda name: checkpoint.parent / name)
    checkpoint.rename(checkpoint.parent / "model")
    (checkpoint.parent / "sample_data").mkdir()
    (checkpoint.parent / "model").rename(checkpoint.parent / "sample_data" / "model")
    files = locate_model(ModelSpec())
    assert files.name == "embedded"
    assert files.directory == checkpoint.parent / "sample_data" / "model"


@pytest.mark.parametrize("missing", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all"])
def test_a_path_that_is_not_there_is_named(missing: str) -> None:
    with pytest.raises(ModelError, match="there is no such directory") as caught:
        locate_model(ModelSpec(id=missing))
    assert missing in caught.value.message


def test_a_missing_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        locate_model(ModelSpec(id=str(checkpoint)))


def test_missing_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        locate_model(ModelSpec(id=str(checkpoint)))
    assert locate_model(ModelSpec(id=str(checkpoint), random_weights=True))
    assert locate_model(ModelSpec(id=str(checkpoint)), need_weights=False)
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin; only safetensors"):
        locate_model(ModelSpec(id=str(checkpoint)))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    assert locate_model(ModelSpec(id=str(sharded)))
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 3
    shards[2].unlink()
    with pytest.raises(ModelError, match=shards[2].name):
        locate_model(ModelSpec(id=str(sharded)))
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"{shards[1].name} and 1 more"):
        locate_model(ModelSpec(id=str(sharded)))


def test_a_file_cut_short_is_named_with_its_sizes(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(ModelError, match=f"{len(whole) - 10} bytes of {len(whole)}") as caught:
        locate_model(ModelSpec(id=str(sharded)))
    assert shard.name in caught.value.message
    shard.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="not a safetensors file"):
        locate_model(ModelSpec(id=str(sharded)))
    shard.write_bytes((5).to_bytes(8, "little") + b"{{{{{")
    with pytest.raises(ModelError, match="damaged header"):
        locate_model(ModelSpec(id=str(sharded)))


def test_an_index_without_a_map_is_named(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(ModelError, match=r"index\.json has no weight_map"):
        locate_model(ModelSpec(id=str(sharded)))


class FakeHub:
    """A repository of named files; the client that downloads from it keeps a snapshot."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.files = files
        self.snapshot = folder / "snapshots" / COMMIT
        self.revisions: list[str] = []

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str,
        allow_patterns: list[str],
        ignore_patterns: list[str] | None,
    ) -> str:
        assert repo_id == "org/tiny"
        self.revisions.append(revision)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name in filter_repo_objects(
            self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            path = self.snapshot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.files[name])
        return str(self.snapshot)

    @property
    def fetched(self) -> set[str]:
        found = self.snapshot.rglob("*")
        return {str(path.relative_to(self.snapshot)) for path in found if path.is_file()}


# Weights in other forms, and files of other programs, as they lie beside safetensors on the hub.
STRAY = (
    "consolidated.safetensors",
    "consolidated-00001-of-00002.safetensors",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "adapter_model.safetensors",
    "original/model.safetensors",
    "original/consolidated.00.pth",
    "onnx/model.onnx",
    "onnx/config.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-00001-of-00002.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "tiny-Q4_K_M.gguf",
    "tekken.json",
    "params.json",
    "training_args.bin",
    "runs/events.json",
    "README.md",
)
TEMPLATES = {
    "chat_template.jinja",
    "additional_chat_templates/default.jinja",
    "chat_template.json",
    "processor_config.json",
}
SMALL = {"config.json", "generation_config.json", "tokenizer.json", *TEMPLATES}


def _hub_of(directory: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *stray: str) -> FakeHub:
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    files |= dict.fromkeys({*stray, "tokenizer.json", *TEMPLATES}, b"{}")
    hub = FakeHub(folder, files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_a_hub_model_is_fetched_with_its_revision(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _hub_of(checkpoint, tmp_path, monkeypatch)
    files = locate_model(ModelSpec(id="org/tiny", revision="v2"))
    assert (files.directory, files.commit, files.name) == (hub.snapshot, COMMIT, "org/tiny")
    # Of one commit, though the branch may have moved meanwhile.
    assert hub.revisions == ["v2", COMMIT]


@pytest.mark.parametrize("need_weights", [True, False])
def test_only_what_the_index_names_is_fetched(
    need_weights: bool, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _hub_of(sharded, tmp_path, monkeypatch, *STRAY)
    files = locate_model(ModelSpec(id="org/tiny"), need_weights=need_weights)
    shards = {path.name for path in sharded.glob("*.safetensors")}
    index = "model.safetensors.index.json"
    assert hub.fetched == SMALL | {index} | (shards if need_weights else set())
    if need_weights:
        assert {path.name for path in weight_files(files.directory)} == shards


def test_without_an_index_the_file_of_the_usual_name_is_fetched(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _hub_of(checkpoint, tmp_path, monkeypatch, *STRAY)
    locate_model(ModelSpec(id="org/tiny"))
    assert hub.fetched == SMALL | {"model.safetensors"}
    assert locate_model(ModelSpec(id="org/tiny", random_weights=True))


@pytest.mark.parametrize("name", ["tiny.safetensors", "model.fp16.safetensors"])
def test_a_single_file_of_another_name_is_found_on_the_hub(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    stray = set(STRAY) - {"model.fp16.safetensors"}
    hub = _hub_of(checkpoint, tmp_path, monkeypatch, *stray)
    hub.files[name] = (checkpoint / name).read_bytes()
    files = locate_model(ModelSpec(id="org/tiny"))
    assert hub.fetched == SMALL | {name}
    assert [path.name for path in weight_files(files.directory)] == [name]


def test_a_repository_without_safetensors_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "model.safetensors").unlink()
    hub = _hub_of(
        checkpoint, tmp_path, monkeypatch, "pytorch_model.bin", "consolidated.safetensors"
    )
    with pytest.raises(ModelError, match=r"has neither model\.safetensors nor"):
        locate_model(ModelSpec(id="org/tiny"))
    assert hub.fetched == SMALL


def test_a_shard_that_the_hub_lacks_is_named(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = sorted(path.name for path in sharded.glob("*.safetensors"))[1]
    hub = _hub_of(sharded, tmp_path, monkeypatch, "consolidated.safetensors")
    del hub.files[shard]
    with pytest.raises(ModelError, match=f"lacks {shard}, named in model.safetensors.index.json"):
        locate_model(ModelSpec(id="org/tiny"))


def test_an_unsupported_model_is_refused_before_its_weights_are_fetched(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _hub_of(sharded, tmp_path, monkeypatch)
    assert locate_supported(ModelSpec(id="org/tiny"))[0].directory == hub.snapshot
    shutil.rmtree(hub.snapshot)
    hub.files["config.json"] = b'{"architectures": ["MixtralForCausalLM"]}'
    with pytest.raises(ModelError, match="MixtralForCausalLM is not supported"):
        locate_supported(ModelSpec(id="org/tiny"))
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]


@pytest.mark.parametrize("form", ["sharded", "checkpoint"])
def test_other_forms_of_the_weights_in_a_directory_are_not_read(
    form: str, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(form)
    before = weight_files(directory)
    config = load_config(directory)
    spec = ModelSpec(id=str(directory))
    fingerprint = model_fingerprint(locate_model(spec), config, "float32", spec)
    for name in STRAY:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"not a safetensors file")
    assert weight_files(directory) == before
    assert model_fingerprint(locate_model(spec), config, "float32", spec) == fingerprint
    load_weights(locate_model(spec), config, "float32")


def test_a_snapshot_that_is_not_whole_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(checkpoint))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        locate_model(ModelSpec(id="org/tiny"))


def _http_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "from the hub")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_http_error(errors.GatedRepoError), "gated"),
        (_http_error(errors.RepositoryNotFoundError), "does not exist on the hub"),
        (_http_error(errors.RevisionNotFoundError), "no revision 'v9'"),
        (errors.LocalEntryNotFoundError("offline"), "not in the local cache"),
        (errors.OfflineModeIsEnabled("offline"), "not in the local cache"),
        (errors.HFValidationError("bad"), "neither a directory nor a hub id"),
        (ConnectionError("reset"), "could not be downloaded"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_hub_says_becomes_a_model_error(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=message) as caught:
        locate_model(ModelSpec(id="org/tiny", revision="v9"))
    assert "org/tiny" in caught.value.message
    assert caught.value.hint
