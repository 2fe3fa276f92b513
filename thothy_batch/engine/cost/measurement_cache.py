"""Cache of measurements between runs: small JSON files in the user's cache directory.

One file per device, one per device and model shape. They only save the time of measuring again, so
nothing about them is an error: a file that cannot be read or is not ours counts as not there, one
that cannot be written is not kept, and a warning is logged.

A measurement carries the load under which it was taken. One of a busy machine never replaces one of
a quiet machine, and serves to be shown, not to be computed with.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from thothy_batch import __version__
from thothy_batch.engine.cost.cost_model import Curve, ModelWork, StepSpeed
from thothy_batch.engine.hardware.cpu import cpu_name, cpu_signature
from thothy_batch.engine.hardware.cpu_load import is_quiet
from thothy_batch.engine.hardware.gpu import find_gpu
from thothy_batch.process import replace_file
from thothy_batch.records import DeviceLimits

_FORMAT = 3  # raised also when the computation changes, so that everything is measured again
_MAX_BYTES = 1 << 20  # a longer file is not ours
_FORMATS = ("float32", "bfloat16", "int8")
# Errors from parsing a file that is not ours.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpeedKey:
    """The conditions that a measured speed holds for. The weights themselves do not matter."""

    device: str
    threads: int
    impl: str
    dtype: str
    work: ModelWork


class MeasurementCache:
    """Reads and writes the files."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or self._user_folder()

    def device_file(self, device: str, threads: int) -> Path | None:
        """Path of a device's limits; None where this user has no cache directory."""
        return self._file(f"device-{_in_names(device)}-{threads}-threads.json")

    def kernels_file(self, device: str) -> Path | None:
        """Path of the launch settings of a device's kernels; None likewise."""
        return self._file(f"kernels-{_in_names(device)}.json")

    def load_device(self, device: str, threads: int) -> DeviceLimits | None:
        """The limits as measured last, perhaps on a busy machine; None: no usable ones are
        stored."""
        key = {"device": device, "threads": threads}

        def parse(value: dict[str, Any]) -> DeviceLimits:
            flops = {name: _positive(rate) for name, rate in value["flops"].items()}
            if not flops or not set(flops) <= set(_FORMATS):
                raise ValueError(f"formats {sorted(flops)} are not known")
            bandwidth, at = _positive(value["bandwidth"]), _moment(value["measured_at"])
            return DeviceLimits(device, threads, flops, bandwidth, at, _load(value["load"]))

        return self.load(self.device_file(device, threads), key, parse)

    def quiet_device(self, device: str, threads: int) -> DeviceLimits | None:
        """The limits where they were measured on a quiet machine."""
        limits = self.load_device(device, threads)
        return limits if limits is not None and is_quiet(limits.load) else None

    def store_device(self, limits: DeviceLimits) -> None:
        """Keep the limits, but not those of a busy machine in the place of a quiet one's."""
        known = self.quiet_device(limits.device, limits.threads)
        if known is not None and not is_quiet(limits.load):
            return
        key = {"device": limits.device, "threads": limits.threads}
        self.store(self.device_file(limits.device, limits.threads), key, asdict(limits))

    def load_speed(self, key: SpeedKey) -> StepSpeed | None:
        """The speed as measured last, perhaps on a busy machine; None: no usable one is stored."""
        return self.load(self._speed_file(key), _plain(key), _speed_of)

    def quiet_speed(self, key: SpeedKey) -> StepSpeed | None:
        """The speed where it was measured on a quiet machine."""
        speed = self.load_speed(key)
        return speed if speed is not None and is_quiet(speed.load) else None

    def store_speed(self, key: SpeedKey, speed: StepSpeed) -> None:
        """Keep the speed, but not that of a busy machine in the place of a quiet one's."""
        if not is_quiet(speed.load) and self.quiet_speed(key) is not None:
            return
        self.store(self._speed_file(key), _plain(key), asdict(speed))

    def _user_folder(self) -> Path | None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        try:
            # The XDG specification says to ignore a relative path.
            base = base if base.is_absolute() else Path.home() / ".cache"
        except RuntimeError:
            _log.warning("measured figures are not kept: this user has no home directory")
            return None
        return base / "thothy-batch"

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _speed_file(self, key: SpeedKey) -> Path | None:
        digest = blake2b(json.dumps(_plain(key), sort_keys=True).encode(), digest_size=8)
        return self._file(f"speed-{digest.hexdigest()}.json")

    def load(
        self, path: Path | None, key: dict[str, Any], parse: Callable[[dict[str, Any]], T]
    ) -> T | None:
        """Parse the value that was stored for `key`; None if there is none that can be used."""
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(_MAX_BYTES))
            if document["format"] != _FORMAT or document["key"] != key:
                raise ValueError("it is of another version or device")
            return parse(document["value"])
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read (%s): measured again", path, error.strerror)
        except _MALFORMED as error:
            _log.warning("%s is not as it was written (%s): measured again", path, _said(error))
        return None

    def store(self, path: Path | None, key: dict[str, Any], value: dict[str, Any]) -> None:
        if path is None:
            return
        document = {"format": _FORMAT, "key": key, "value": value}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(document, indent=1).encode()
            replace_file(path, content, durable=False, place="cache")
        except OSError as error:
            _log.warning("%s cannot be written (%s): figures are not kept", path, error.strerror)


def device_name(device: str = "cpu") -> str:
    """The name of the computing device, distinct from others of the same marketing name."""
    if device != "cpu":
        gpu = find_gpu()
        return device if gpu is None else gpu.name
    # Restricted to fewer instructions for comparison: not the speed of this processor.
    asked = os.environ.get("THOTHY_CPU_ISA")
    return f"{cpu_name()} {cpu_signature()}".strip() + (f" as {asked}" if asked else "")


def _in_names(device: str) -> str:
    """A device's name as part of a file name."""
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")[:100]


def measured_now() -> str:
    """The present time, for `measured_at`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(key: SpeedKey) -> dict[str, Any]:
    """The key as JSON. It has the versions of all that computes, so a new one is measured again."""
    versions = {"thothy-batch": __version__, "torch": _version("torch")}
    plain: dict[str, Any] = json.loads(json.dumps(asdict(key) | {"versions": versions}))
    return plain


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _speed_of(value: dict[str, Any]) -> StepSpeed:
    names = ("kv_byte_s", "pair_s", "shared_pair_s", "step_s", "row_s")
    return StepSpeed(
        linears=_curve(value["linears"]),
        head=_curve(value["head"]),
        measured_at=_moment(value["measured_at"]),
        load=_load(value["load"]),
        **{name: _number(value[name]) for name in names},
    )


def _curve(value: list[list[object]]) -> Curve:
    curve = tuple((_positive(rows), _number(seconds)) for rows, seconds in value)
    rows = [rows for rows, _ in curve]
    if not rows or rows != sorted(set(rows)):
        raise ValueError(f"rows {rows} do not ascend")
    return curve


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} cannot have been measured")
    return float(value)


def _positive(value: object) -> float:
    number = _number(value)
    if not number:
        raise ValueError("0 cannot have been measured")
    return number


def _load(value: object) -> float | None:
    return None if value is None else _number(value)


def _moment(value: object) -> str:
    return datetime.fromisoformat(str(value)).isoformat(timespec="seconds")


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
