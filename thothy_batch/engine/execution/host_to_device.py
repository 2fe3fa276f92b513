"""Host to device: sends several arrays in one asynchronous transfer."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from thothy_kernels.transfer import send

# Bytes: the alignment of the widest vector load.
_ALIGNMENT = 16
AnyArray = npt.NDArray[np.generic]


class PackedLayout:
    """Offsets of arrays with fixed names, shapes and dtypes in one byte buffer."""

    def __init__(self, arrays: Mapping[str, AnyArray]) -> None:
        self._places: dict[str, tuple[int, AnyArray]] = {}
        self.size = 0
        for name, array in arrays.items():
            self._places[name] = self.size, np.empty_like(array)
            self.size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT

    def pack(self, arrays: Mapping[str, AnyArray]) -> torch.Tensor:
        """Copy the layout's arrays into one buffer on the host, uint8 [size]."""
        packed = np.zeros(self.size, np.uint8)
        for name, (start, like) in self._places.items():
            array = np.ascontiguousarray(arrays[name])
            assert array.shape == like.shape, f"{name} is {array.shape}, not {like.shape}"
            assert array.dtype == like.dtype, f"{name} is {array.dtype}, not {like.dtype}"
            packed[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        return torch.from_numpy(packed)

    def views(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the arrays as views of `packed`, uint8 [size]."""
        return {
            name: packed[start : start + like.nbytes].view(_torch_dtype(like)).view(like.shape)
            for name, (start, like) in self._places.items()
        }


def upload(arrays: Mapping[str, AnyArray], device: torch.device) -> dict[str, torch.Tensor]:
    """Return each array as a tensor on the device."""
    layout = PackedLayout(arrays)
    return layout.views(send(layout.pack(arrays), device))


def _torch_dtype(like: AnyArray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, like.dtype)).dtype
