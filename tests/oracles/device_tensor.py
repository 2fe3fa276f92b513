"""Tensors of a device that is not there, which refuse whatever a host would have to wait for.

Inside `pretended_device()` the device `meta` has tensors with data. To read one on the host raises
`HostWaitError`: .item(), .tolist(), .cpu(), .numpy(), int(), bool(), a mask as an index, a copy to
the host that is not asynchronous. Triton's interpreter computes on the data beneath.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from triton.runtime.interpreter import InterpretedFunction

DEVICE = torch.device("meta")
_aten = torch.ops.aten
# Operations whose result's size or value the host needs at once.
_WAITS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten._unique2.default,
}
_UNSEEN = ("numpy", "tolist", "__array__", "cpu", "item")


class HostWaitError(Exception):
    """The host would have waited for the device."""


class DeviceTensor(torch.Tensor):
    """`data`, as if it lay on the device."""

    data_there: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> "DeviceTensor":
        # Views of tensors that were made outside of it must not be of inference mode alone.
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                data.shape,
                strides=data.stride(),
                storage_offset=data.storage_offset(),
                dtype=data.dtype,
                device=DEVICE,
            )
        made.data_there = data
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _UNSEEN:
            raise HostWaitError(func.__name__)
        if func is torch.Tensor.data_ptr:
            return args[0].data_there.data_ptr()  # the host knows addresses
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _WAITS or _is_masked(func, args):
            raise HostWaitError(str(func))
        if func is _aten.copy_.default and not isinstance(args[0], cls):
            is_async = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if isinstance(args[1], cls) and not is_async:
                raise HostWaitError("a copy to the host that waits")
        to_host = func is _aten._to_copy.default and kwargs.get("device") not in (None, DEVICE)
        if to_host:
            raise HostWaitError("a copy to the host")
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        known: dict[int, torch.Tensor] = {}

        def beneath(value: Any) -> Any:
            if isinstance(value, cls):
                known[id(value.data_there)] = value
                return value.data_there
            return value

        result = func(*tree_map(beneath, args), **tree_map(beneath, kwargs))
        if func is _aten.copy_.default and not isinstance(args[0], cls):
            return args[0]
        return tree_map(
            lambda value: known.get(id(value)) if id(value) in known else there(value), result
        )


def _is_masked(func: Any, args: Any) -> bool:
    """True if an index is a mask: the size of its selection is known only after a wait."""
    if func not in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def there(value: Any) -> Any:
    """A host's tensor as one of the device."""
    is_plain = isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor)
    return DeviceTensor(value) if is_plain else value


class _Factories(TorchFunctionMode):
    """New tensors for the device, and tensors sent to it, get data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and _wants_device(args[1:], kwargs):
            if isinstance(args[0], DeviceTensor):
                return args[0].to(**{k: v for k, v in kwargs.items() if k == "dtype"})
            return there(args[0].clone())
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            is_new = not any(isinstance(arg, DeviceTensor) for arg in args)
            if is_new:
                return there(func(*args, **(kwargs | {"device": "cpu"})))
        return func(*args, **kwargs)


def _wants_device(args: Any, kwargs: Any) -> bool:
    wanted = kwargs.get("device", args[0] if args else None)
    if isinstance(wanted, torch.Tensor):
        return isinstance(wanted, DeviceTensor)
    return isinstance(wanted, str | torch.device) and torch.device(wanted) == DEVICE


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """The device, for the length of a `with` block."""
    run = InterpretedFunction.run

    def run_beneath(self: Any, *args: Any, **kwargs: Any) -> Any:
        def beneath(value: Any) -> Any:
            return value.data_there if isinstance(value, DeviceTensor) else value

        return run(self, *map(beneath, args), **{k: beneath(v) for k, v in kwargs.items()})

    InterpretedFunction.run = run_beneath
    try:
        with _Factories():
            yield DEVICE
    finally:
        InterpretedFunction.run = run
