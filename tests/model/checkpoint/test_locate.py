"""Models are found in folders and hub caches; an incomplete one is reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint import locate
from thothy_batch.model.checkpoint.locate import locate_model
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


def test_a_hub_model_is_fetched_with_its_revision(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = checkpoint.parent / "snapshots" / COMMIT
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        shutil.copytree(checkpoint, snapshot, dirs_exist_ok=True)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = locate_model(ModelSpec(id="org/tiny", revision="v2"))
    assert (files.directory, files.commit, files.name) == (snapshot, COMMIT, "org/tiny")
    assert calls[0][0] == "org/tiny"
    assert calls[0][1]["revision"] == "v2"
    assert "*.safetensors" in calls[0][1]["allow_patterns"]
    locate_model(ModelSpec(id="org/tiny"), need_weights=False)
    locate_model(ModelSpec(id="org/tiny", random_weights=True))
    for _, options in calls[1:]:
        assert "*.safetensors" not in options["allow_patterns"]


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
