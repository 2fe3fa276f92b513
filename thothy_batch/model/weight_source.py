"""Where a decoder's weights come from: the safetensors files of a checkpoint, or a seed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import weight_files
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.families import FAMILIES
from thothy_batch.model.config.model_config import ModelConfig
from thothy_batch.model.host_memory import trim_heap
from thothy_batch.model.weights import DecoderWeights, empty_weights, places

_HEAD, _LAYERS = "lm_head.weight", "model.layers."
_READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_RANDOM_STD = 0.02
# Beside the text model in a multimodal checkpoint; some have "model." in front.
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
# Numbers drawn once and tiled over all tensors: eight billion normal draws would take minutes.
# A prime, so that no two rows of a tensor hold the same part.
_NUM_DRAWS = 4_194_301


def load_weights(
    files: ModelFiles, config: ModelConfig, dtype: str, device: str = "cpu"
) -> DecoderWeights:
    """A checkpoint in `dtype`, tensor by tensor. A layer is read when `take_layers` comes to it:
    who packs it and lets it go never holds all plain weights.

    Raises ModelError that names tensors which are missing or unknown; for those of the wrong shape
    or dtype, and for files that were changed meanwhile, `take_layers` may raise it. Rotary buffers
    and a copy of tied embeddings under the head's name are no error.
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
    """Weights for measuring speed: norms scale by 1, all else normal with deviation 0.02."""
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
    """Tile `draws` from `offset` over the tensor; returns where the next tensor goes on."""
    flat = part.view(-1)
    done = 0
    while done < flat.numel():
        length = min(draws.numel() - offset, flat.numel() - done)
        flat[done : done + length].copy_(draws[offset : offset + length])
        done += length
        offset = (offset + length) % draws.numel()
    return offset


class _Loader:
    """Finds tensors in files, keeps account of them, and copies them to their places."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights) -> None:
        self._weights = weights
        self._is_multimodal = FAMILIES[config.architecture].is_multimodal
        self._places = places(config, weights)
        self._files: dict[str, tuple[Path, str]] = {}  # where a tensor is, its name there
        self._versions: dict[Path, tuple[int, ...]] = {}  # of files, when they were found
        self._unknown: list[str] = []
        self._tied_head: torch.Tensor | None = None

    def find(self, path: Path) -> None:
        """Note which tensors a file has."""
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
        """Raises ModelError where not all is there, or too much."""
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
        """All that belongs to no layer."""
        for name in self._files:
            if not name.startswith(_LAYERS):
                self._read([name])
        self._settle_tied_head()

    def read_layer(self, number: int) -> None:
        trim_heap()  # of the layer before, which was packed
        prefix = f"{_LAYERS}{number}."
        self._read([name for name in self._files if name.startswith(prefix)])

    def _read(self, names: list[str]) -> None:
        for path in dict.fromkeys(self._files[name][0] for name in names):
            # Pages that were read are resident as long as the file is open.
            with _opened(path) as file:
                self._check_version(path)
                for name in names:
                    if self._files[name][0] == path:
                        self._take(name, file, path)

    def _check_version(self, path: Path) -> None:
        """Half of one checkpoint and half of another would make sense to nobody."""
        if _version(path) != self._versions[path]:
            raise ModelError(
                f"{path} was changed while it was loaded",
                hint="start again once nothing writes to the checkpoint",
            )

    def _take(self, text_name: str, file: "safe_open", path: Path) -> None:
        name = self._files[text_name][1]
        # Taken out: nothing here may keep a tensor that its reader lets go.
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
        """Tied by config.json, but a head came too: it counts where it differs, as elsewhere."""
        head = self._tied_head
        if head is not None and not torch.equal(head, self._weights.embedding):
            self._weights.head = head


@contextmanager
def _opened(path: Path) -> "Iterator[safe_open]":
    """Raises ModelError where it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", hint="the download is damaged: fetch it again"
        ) from error


def _version(path: Path) -> tuple[int, ...]:
    """What another file in its place would differ in."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _text_name(name: str) -> str:
    """What a text model would call a multimodal checkpoint's tensor; "" for its other parts.

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
