"""The fingerprint of a model: runs with equal fingerprints generate equal text."""

import hashlib
import json
from pathlib import Path

from thothy_batch.errors import EngineError
from thothy_batch.model.checkpoint.files import MAX_HEADER_BYTES, header_length, weight_files
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.hashed_settings import hashed_settings
from thothy_batch.model.config.model_config import ModelConfig
from thothy_batch.records import EngineSpec, ModelSpec

_VERSION = "model-1"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_WHOLE_BYTES = 16 << 20  # files up to this size are hashed whole
_PAGE_BYTES = 4096
_NUM_PAGES = 256  # sampled evenly from a larger file, first and last included


def model_fingerprint(files: ModelFiles, config: ModelConfig, dtype: str, spec: ModelSpec) -> str:
    """Hash config, dtype, quantization, tokenizer and weights into 32 hex digits.

    Weights count by hub commit, else by name, size, header and sampled pages of each file; random
    weights by their seed. The location of the directory does not matter.
    """
    hasher = hashlib.blake2b(digest_size=16)
    settings = {
        "version": _VERSION,
        "config": hashed_settings(config),
        "dtype": dtype,
        "quantization": spec.quantization,
    }
    hasher.update(json.dumps(settings, sort_keys=True).encode())
    for name in _TOKENIZER_FILES:
        path = files.directory / name
        if path.is_file():
            _add(hasher, f"{name}:{hashlib.blake2b(path.read_bytes()).hexdigest()}")
    if spec.random_weights:
        _add(hasher, f"random:{spec.seed}")
    elif files.commit is not None:
        _add(hasher, f"commit:{files.commit}")
    else:
        for path in weight_files(files.directory):
            _add(hasher, f"file:{path.name}:{path.stat().st_size}")
            _add_contents(hasher, path)
    return hasher.hexdigest()


def check_fingerprint(spec: EngineSpec, files: ModelFiles, config: ModelConfig, dtype: str) -> None:
    """Raise EngineError if the weights changed since the start of the run.

    Completions of two models would otherwise share request keys.
    """
    if not spec.fingerprint:
        return
    if model_fingerprint(files, config, dtype, spec.model) != spec.fingerprint:
        raise EngineError(
            f"the model {files.directory} has been changed since this run began",
            hint="run again: entries that are not done are then computed by the new one",
            cause="model",
        )


def _add(hasher: "hashlib.blake2b", text: str) -> None:
    hasher.update(b"\0" + text.encode())


def _add_contents(hasher: "hashlib.blake2b", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            hasher.update(file.read())
            return
        hasher.update(file.read(min(header_length(file), MAX_HEADER_BYTES)))
        last = size - _PAGE_BYTES
        for page in range(_NUM_PAGES):
            file.seek(last * page // (_NUM_PAGES - 1))
            hasher.update(file.read(_PAGE_BYTES))
