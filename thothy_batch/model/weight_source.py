"""Loads a decoder's weights from safetensors files, or draws them from a seed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import weight_files
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.families import WRAPPERS
from thothy_batch.model.config.model_config import ModelConfig
from thothy_batch.model.host_memory import trim_heap
from thothy_batch.model.weights import DecoderWeights, empty_weights, places, to_halves

_HEAD, _LAYERS = "lm_head.weight", "model.layers."
_READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_RANDOM_STD = 0.02
# Parts beside the text model in a multimodal checkpoint; some have the prefix "model.".
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "image_newline", "visual.")
# Numbers drawn once and tiled over all tensors: eight billion normal draws take minutes.
# A prime, so that no two rows of a tensor hold the same part.
_NUM_DRAWS = 4_194_301


def load_weights(
    files: ModelFiles, config: ModelConfig, dtype: str, device: str = "cpu"
) -> DecoderWeights:
    """Read a checkpoint in `dtype`, layer by layer, as `take_layers` reaches each.

    A caller that packs and drops each layer never holds all plain weights. Raises ModelError with
    missing or unknown tensors; `take_layers` may raise it for a wrong shape or dtype and for files
    that changed meanwhile. Rotary buffers and a copy of tied embeddings under the head's name are
    accepted.
    """
    weights = empty_weights(config, dtype, device)
    loader = _Loader(config, weights)
    for path in weight_files(files.directory):
        loader.find(path)
    loader.check(files.directory)
    loader.read_common()
    weights.read_layer = loader.read_layer
    return weights


def random_weights(
    config: ModelConfig, dtype: str, seed: int, device: str = "cpu"
) -> DecoderWeights:
    """Draw weights for speed tests: norms scale by 1, the rest is normal with deviation 0.02."""
    weights = empty_weights(config, dtype, device)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(_NUM_DRAWS, generator=generator) * _RANDOM_STD
    offset = 0
    for name, part in places(config, weights).items():
        if name.endswith("norm.weight"):
            part.fill_(1.0 - config.norm_offset)
        else:
            offset = _fill(part, draws, offset)
    return weights


def _fill(part: torch.Tensor, draws: torch.Tensor, offset: int) -> int:
    """Tile `draws` from `offset` over the tensor; return the offset of the next tensor."""
    flat = part.view(-1)
    done = 0
    while done < flat.numel():
        length = min(draws.numel() - offset, flat.numel() - done)
        flat[done : done + length].copy_(draws[offset : offset + length])
        done += length
        offset = (offset + length) % draws.numel()
    return offset


class _Loader:
    """Finds tensors in files, tracks them, and copies them to their places."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights) -> None:
        self._weights = weights
        self._config = config
        self._is_multimodal = config.architecture in WRAPPERS
        self._places = places(config, weights)
        self._files: dict[str, tuple[Path, str]] = {}  # the file of a tensor and its name there
        self._versions: dict[Path, tuple[int, ...]] = {}  # of files, at the time they were found
        self._unknown: list[str] = []
        self._tied_head: torch.Tensor | None = None

    def find(self, path: Path) -> None:
        """Record the tensors of a file."""
        with _opened(path) as file:
            self._versions[path] = _version(path)
            names: list[str] = list(file.keys())  # type: ignore[no-untyped-call]
        for name in names:
            text_name = _text_name(name) if self._is_multimodal else name
            if text_name in self._places or text_name == _HEAD:
                self._files[text_name] = path, name
            elif text_name and not name.endswith("rotary_emb.inv_freq"):
                self._unknown.append(name)

    def check(self, directory: Path) -> None:
        """Raise ModelError for missing or surplus tensors."""
        if missing := self._places.keys() - self._files.keys():
            raise ModelError(
                f"{directory} lacks {_listed(missing)}",
                hint="the weights do not belong to this config.json, or the directory is "
                "incomplete: fetch it again",
            )
        if self._unknown:
            raise ModelError(
                f"{directory} has tensors that its config.json does not call for: "
                f"{_listed(self._unknown)}",
                hint="the weights do not belong to this config.json",
            )

    def read_common(self) -> None:
        """Read the tensors that belong to no layer."""
        for name in self._files:
            if not name.startswith(_LAYERS):
                self._read([name])
        self._settle_tied_head()

    def read_layer(self, number: int) -> None:
        trim_heap()  # of the preceding layer, which was packed
        prefix = f"{_LAYERS}{number}."
        self._read([name for name in self._files if name.startswith(prefix)])
        to_halves(self._config, self._weights.layers[0])  # the layers before it were taken

    def _read(self, names: list[str]) -> None:
        for path in dict.fromkeys(self._files[name][0] for name in names):
            # Pages stay resident as long as the file is open.
            with _opened(path) as file:
                self._check_version(path)
                for name in names:
                    if self._files[name][0] == path:
                        self._take(name, file, path)

    def _check_version(self, path: Path) -> None:
        """Raise ModelError if a file was replaced while others were read."""
        if _version(path) != self._versions[path]:
            raise ModelError(
                f"{path} was changed while it was loaded",
                hint="start again once nothing writes to the checkpoint",
            )

    def _take(self, text_name: str, file: "safe_open", path: Path) -> None:
        name = self._files[text_name][1]
        # Removed from the map: nothing here may keep a tensor that its reader drops.
        place = self._places.pop(text_name, None)
        tensor: torch.Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
        expected = self._weights.embedding if place is None else place
        if tensor.shape != expected.shape:
            raise ModelError(
                f"{path}: {name} has shape {list(tensor.shape)}, config.json calls for "
                f"{list(expected.shape)}",
                hint="the weights do not belong to this config.json",
            )
        if tensor.dtype not in _READABLE:
            raise ModelError(
                f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')}; quantized "
                "weights are not supported",
                hint="use the unquantized checkpoint of the same model",
            )
        if place is None:
            self._tied_head = tensor.to(expected.device, expected.dtype, copy=True)
        else:
            place.copy_(tensor)

    def _settle_tied_head(self) -> None:
        """Keep a head that differs from the embeddings although config.json ties them."""
        head = self._tied_head
        if head is not None and not torch.equal(head, self._weights.embedding):
            self._weights.head = head


@contextmanager
def _opened(path: Path) -> "Iterator[safe_open]":
    """Open a file. Raises ModelError if it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", hint="the download is damaged: fetch it again"
        ) from error


def _version(path: Path) -> tuple[int, ...]:
    """Return values that would differ in a replaced file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _text_name(name: str) -> str:
    """Return a text model's name of a multimodal checkpoint's tensor; "" for other parts.

    The text model's tensors begin with "language_model.model." or "model.language_model.", as
    older and newer versions of transformers wrote them.
    """
    if name.removeprefix("model.").startswith(_OTHER_PARTS):
        return ""
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name.removeprefix("language_model.")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
