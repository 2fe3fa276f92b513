"""Locates a model's files: embedded in the package, in a directory, or on the hub."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import (
    CONFIG,
    INDEX,
    OTHER_FORMS,
    PROCESSOR_FILES,
    SINGLE,
    TEMPLATE_FILES,
    check_weight_file,
    indexed_names,
    is_there,
    weight_files,
)
from thothy_batch.records import ModelSpec
from thothy_batch.resources import data_path

EMBEDDED_NAME = "embedded"
_SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *TEMPLATE_FILES,
    *PROCESSOR_FILES,
)
# Of a repository without an index and without the usual name.
_ANY_WEIGHTS = ("*.safetensors",)
_OTHER_FORMS = ("*/*", *(f"{name}*" for name in OTHER_FORMS))
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model directory, complete as far as requested."""

    directory: Path
    commit: str | None  # on the hub; None for directories and the embedded model
    name: str  # shown in the store: hub id, directory name, or "embedded"


def locate_model(spec: ModelSpec, *, need_weights: bool = True) -> ModelFiles:
    """Find the files of `spec`, downloading missing ones from the hub.

    Without `need_weights` (planning, random weights) the small files suffice. Raises ModelError
    with the first file that is missing or cut short, and for a hub id that does not exist, is
    gated, or cannot be reached.
    """
    need_weights = need_weights and not spec.random_weights
    if not spec.id:
        files = ModelFiles(data_path("sample_data") / "model", None, EMBEDDED_NAME)
    elif (path := Path(spec.id).expanduser()).is_dir():
        files = ModelFiles(path, None, path.resolve().name)
    elif _looks_like_path(spec.id):
        raise ModelError(
            f"model {spec.id!r}: there is no such directory",
            hint="give a hub id like Qwen/Qwen3-0.6B or a directory with config.json",
        )
    else:
        files = _fetch(spec, need_weights=need_weights)
    _check_complete(files, need_weights=need_weights)
    _log.info("model %s: %s", files.name, files.directory)
    return files


def is_on_hub(model_id: str) -> bool:
    """True for an id of the hub, whose files may have to be downloaded."""
    if not model_id or ":" in model_id or _looks_like_path(model_id):
        return False
    return not Path(model_id).expanduser().is_dir()


def weights_size(spec: ModelSpec) -> tuple[Path, int | None]:
    """The folder of the hub client's cache into which a model's files go, and their size in bytes
    as far as the hub tells it: it is for a progress display."""
    import huggingface_hub

    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    folder = folder / f"models--{spec.id.replace('/', '--')}" / "blobs"
    try:
        found = huggingface_hub.HfApi().model_info(
            spec.id, revision=spec.revision, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    except Exception:  # the download itself tells what is wrong
        return folder, None
    return folder, sum(size for name, size in sizes.items() if _is_wanted(name))


def _is_wanted(name: str) -> bool:
    is_weights = name.endswith(".safetensors") and "/" not in name
    return name in _SMALL_FILES or (is_weights and not name.startswith(OTHER_FORMS))


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith((".", "/", "~")) or model_id.count("/") > 1


def _check_complete(files: ModelFiles, *, need_weights: bool) -> None:
    if not is_there(files.directory / CONFIG):
        raise ModelError(
            f"model {files.name!r}: {files.directory / CONFIG} is missing",
            hint="a model directory holds config.json, *.safetensors and tokenizer.json",
        )
    if need_weights:
        for path in weight_files(files.directory):
            check_weight_file(path)


def _fetch(spec: ModelSpec, *, need_weights: bool) -> ModelFiles:
    """Download the small files, then of the weights those that the index names."""
    directory = _download(spec, spec.revision, _SMALL_FILES)
    commit = _commit_of(directory)
    if need_weights:
        # Of one commit, even if the branch moves meanwhile.
        revision = commit or spec.revision
        names = indexed_names(directory) if (directory / INDEX).is_file() else [SINGLE]
        directory = _download(spec, revision, names)
        if names == [SINGLE] and not (directory / SINGLE).is_file():
            directory = _download(spec, revision, _ANY_WEIGHTS, _OTHER_FORMS)
    return ModelFiles(directory, commit, spec.id)


def _download(
    spec: ModelSpec, revision: str, names: Sequence[str], ignored: Sequence[str] = ()
) -> Path:
    """Fetch files by names or patterns, as far as the hub has them; return their folder."""
    # Imported late: the hub client takes a third of a second and local models never need it.
    import huggingface_hub

    with _hub_errors(spec):
        found = huggingface_hub.snapshot_download(
            spec.id,
            revision=revision,
            allow_patterns=list(names),
            ignore_patterns=list(ignored) or None,
        )
    return Path(found)


@contextmanager
def _hub_errors(spec: ModelSpec) -> Iterator[None]:
    """Raise a ModelError that names the model in place of the hub client's errors."""
    from huggingface_hub import errors

    where = f"model {spec.id!r} at revision {spec.revision!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{where} is gated",
            hint=f"accept its terms at https://huggingface.co/{spec.id}, then `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{where} does not exist on the hub, or is private",
            hint="check the spelling, or `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"model {spec.id!r} has no revision {spec.revision!r}",
            hint="set model.revision to a branch, tag or commit of that model",
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(
            f"model {spec.id!r} is neither a directory nor a hub id",
            hint="give a hub id like Qwen/Qwen3-0.6B or a directory with config.json",
        ) from error
    except (errors.EntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{where} is not in the local cache, and the hub cannot be reached",
            hint="connect once to download it, or set model.id to a local directory",
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise ModelError(
            f"{where} could not be downloaded: {error}",
            hint="try again: the download continues where it stopped",
        ) from error


def _commit_of(snapshot: Path) -> str | None:
    """Return the commit, by which the hub's cache names a snapshot's folder."""
    name = snapshot.name
    is_hash = len(name) == 40 and set(name) <= set("0123456789abcdef")
    return name if is_hash else None
