"""Reads the files of a checkpoint directory and checks that none is missing or cut short.

Imports no torch: a safetensors file is eight bytes of header length (little endian), a JSON header
and the data.
"""

import json
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from thothy_batch.errors import ModelError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = (
    256 << 20
)  # far above any real header, so that a damaged length does not fill memory
# Pickled files run code when read; the others belong to other programs.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".gguf", ".h5", ".msgpack")
OTHER_FORMS = ("consolidated", "adapter_")  # how their names begin
# The chat template as a file of its own, and the files of processors that may hold it as a key.
TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates/default.jinja")
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_FETCH = "or fetch the file again"
_HEADER_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def read_text(path: Path) -> str:
    """Read UTF-8 text. ModelError names a file that is missing, a folder, or something else."""
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            what = "a folder" if path.is_dir() else "a pipe or a device"
            raise ModelError(f"{path} is {what}, not a file", hint=f"remove it, {_FETCH}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(
            f"{path} is missing", hint="the model directory is incomplete: fetch it again"
        ) from None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="check who may read the file and its folder",
        ) from error
    except UnicodeDecodeError as error:
        begin = error.object[:2]
        why = "it begins with a byte order mark of UTF-16" if begin in _UTF_16 else str(error)
        raise ModelError(
            f"{path} is not UTF-8: {why}", hint=f"save it as UTF-8, {_FETCH}"
        ) from error


def read_json_text(path: Path) -> str:
    """Read the text of a JSON file. ModelError names one that begins with a byte order mark."""
    text = read_text(path)
    if text.startswith("\ufeff"):
        raise ModelError(
            f"{path} begins with a byte order mark, which JSON does not allow",
            hint=f"save it as UTF-8 without a byte order mark (BOM), {_FETCH}",
        )
    return text


def read_json(path: Path) -> dict[str, object]:
    """Read the JSON object in `path`. ModelError names the file and the position of the fault."""
    try:
        value = json.loads(read_json_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}", hint="fetch the file again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def read_json_if_there(path: Path) -> dict[str, object]:
    """Read like `read_json`; a missing file is an empty object."""
    return read_json(path) if is_there(path) else {}


def is_there(path: Path) -> bool:
    """True for a file, and for whatever else has its name: a folder, or a link to nothing."""
    return os.path.lexists(path)


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint by name. ModelError names a missing file.

    They are those that the index names, else the one of the usual name, else all that are no other
    form of the same weights.
    """
    if is_there(directory / INDEX):
        names = indexed_names(directory)
        _check_present(directory, names)
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if loose := _loose_names(path.name for path in directory.glob("*.safetensors")):
        return [directory / name for name in loose]
    others = sorted(p.name for p in directory.iterdir() if p.suffix in _OTHER_WEIGHTS)
    if others:
        raise ModelError(
            f"{directory} has its weights in {others[0]}; only safetensors are read",
            hint="save the model with transformers' save_pretrained, which writes safetensors",
        )
    raise ModelError(
        f"{directory} has neither {SINGLE} nor {INDEX}",
        hint="the model directory is incomplete: fetch it again, "
        "or set model.random_weights: true for a benchmark",
    )


def indexed_names(directory: Path) -> list[str]:
    """Return the shards that the index names, ascending. Raises ModelError for a damaged index."""
    index = directory / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map", hint="fetch the file again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index} names {name!r}; shards are safetensors files beside it",
                hint="fetch the model again, in safetensors",
            )
    return names


def _loose_names(names: Iterable[str]) -> list[str]:
    """Return the safetensors files of a checkpoint that has neither index nor the usual name.

    Left out are other forms of the weights: Mistral's own, adapters, and variants such as
    model.fp16.safetensors beside a file without such a part in its name.
    """
    loose = [
        name
        for name in sorted(names)
        if name.endswith(".safetensors") and not name.startswith(OTHER_FORMS)
    ]
    plain = [name for name in loose if name.count(".") == 1]
    return plain or loose


def check_weight_file(path: Path) -> None:
    """Raise ModelError if a safetensors file is cut short or damaged, by its size and header."""
    header = read_header(path)
    spans = sorted(_span(path, entry) for name, entry in header.items() if name != "__metadata__")
    if any(begin < end for (_, end), (begin, _) in pairwise(spans)):
        raise _damaged(path, "tensors that overlap")
    with path.open("rb") as file:
        start = 8 + header_length(file)
    needed = start + max((end for _, end in spans), default=0)
    size = path.stat().st_size
    if size < needed:
        raise ModelError(
            f"{path} is cut short: {size} bytes of {needed}",
            hint="the download did not finish: fetch the file again",
        )


def read_header(path: Path) -> dict[str, dict[str, object]]:
    """Return name → {dtype, shape, data_offsets} of a safetensors file, and "__metadata__"."""
    with path.open("rb") as file:
        length = header_length(file)
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
            raise ModelError(
                f"{path} is not a safetensors file", hint="the download is damaged: fetch it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise _damaged(path, "a damaged header")
    return header


def header_length(file: BinaryIO) -> int:
    """Read the header length from the first eight bytes; any number in a damaged file."""
    return int.from_bytes(file.read(8), "little")


def checkpoint_dtype(raw: dict[str, object], directory: Path) -> str:
    """Return float32, bfloat16, ... from config.json `raw`, else of the first weight tensor."""
    named = raw.get("dtype") or raw.get("torch_dtype")
    if isinstance(named, str):
        return named.removeprefix("torch.")
    if not (directory / SINGLE).is_file():
        return "float32"
    header = read_header(weight_files(directory)[0])
    for name, entry in header.items():
        if name != "__metadata__":
            return _HEADER_DTYPES.get(str(entry.get("dtype")), "float32")
    return "float32"


def _check_present(directory: Path, names: list[str]) -> None:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{directory} lacks {missing[0]}{more}, named in {INDEX}",
            hint="the model directory is incomplete: fetch it again",
        )


def _span(path: Path, entry: dict[str, object]) -> tuple[int, int]:
    """Return the begin and end of a tensor's bytes, counted from the end of the header."""
    offsets = entry.get("data_offsets")
    if isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets):
        begin, end = offsets
        if 0 <= begin <= end:
            return begin, end
    raise _damaged(path, "a damaged header")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} has {what}", hint="the download is damaged: fetch the file again")
