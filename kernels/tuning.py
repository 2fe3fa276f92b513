"""Launch settings of Triton kernels: a table that launches look up, and a search for the fastest.

A kernel's tile sizes, warps and stages depend on the device and the shape, and have a derived
default. Settings that were measured to be faster are in the table by operation and key (a shape and
a dtype). Launches only look up: they never measure, and nothing here touches a disk.

The table changes compile-time constants. Tuning must therefore finish before a CUDA graph captures
a launch, and a plan keeps the settings that it was made with for its launches. A single thread
launches, so the table has no lock.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields

import torch

# A candidate replaces the default only below this share of its time: closer ones differ by noise,
# which would decide the order of sums.
_WORTHWHILE = 0.97
# Milliseconds of warm-up and of measurement per candidate: some tens of launches.
_WARM_UP_MS, _MEASURED_MS = 5, 30

Key = tuple[str, str]  # operation, shape
Timer = Callable[[Callable[[], object]], float]
Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Tile sizes, warps and stages of a kernel. An operation reads the fields that it uses.

    Raises ValueError for values that no kernel compiles with.
    """

    tile: int = 1  # elements or positions that are loaded together
    rows: int = 1  # rows or heads of a program
    warps: int = 4
    stages: int = 2  # tiles in flight
    programs: int = 1  # per multiprocessor, where a kernel is launched once for the whole device

    def __post_init__(self) -> None:
        for item in fields(self):
            value, (most, is_power) = getattr(self, item.name), _RANGES[item.name]
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{item.name} is {value!r}, not an integer of 1 .. {most}")
            if is_power and value & (value - 1):
                raise ValueError(f"{item.name} is {value}, not a power of two")

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


# (largest value, only powers of two are valid)
_RANGES = {
    "tile": (1 << 16, True),
    "rows": (1 << 14, True),
    "warps": (16, True),
    "stages": (5, False),
    "programs": (16, False),
}
_table: dict[Key, LaunchSettings] = {}


def settings_of(op: str, key: str, default: LaunchSettings) -> LaunchSettings:
    """Launch settings of an operation for a shape: those of the table, or the default."""
    return _table.get((op, key), default)


@contextmanager
def using(op: str, key: str, settings: LaunchSettings) -> Iterator[None]:
    """Use these settings for launches within the `with` block."""
    before = _table.get((op, key))
    _table[op, key] = settings
    try:
        yield
    finally:
        if before is None:
            del _table[op, key]
        else:
            _table[op, key] = before


def adopt(settings: Mapping[Key, LaunchSettings]) -> None:
    """Put settings into the table."""
    _table.update(settings)


def plain(settings: Mapping[Key, LaunchSettings]) -> dict[str, dict[str, dict[str, int]]]:
    """Settings as plain JSON values: {operation: {key: {field: value}}}."""
    document: dict[str, dict[str, dict[str, int]]] = {}
    for (op, key), chosen in sorted(settings.items(), key=lambda item: item[0]):
        document.setdefault(op, {})[key] = asdict(chosen)
    return document


def parse(document: object) -> dict[Key, LaunchSettings]:
    """The settings in a document made by `plain`; ValueError for anything else."""
    names = {item.name for item in fields(LaunchSettings)}
    found = {}
    for op, by_key in _entries(document, "the document"):
        for key, value in _entries(by_key, op):
            entry = dict(_entries(value, f"{op} {key}"))
            if set(entry) != names:
                raise ValueError(f"{op} {key} has the fields {sorted(entry)}")
            try:
                found[op, key] = LaunchSettings(**entry)
            except ValueError as error:
                raise ValueError(f"{op} {key}: {error}") from None
    return found


def _entries(value: object, name: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} is no table of launch settings")
    return list(value.items())


@dataclass(frozen=True, slots=True)
class Trial:
    """A measurement that chooses the settings of an operation for a shape.

    `prepare` makes the inputs, the same each time, and returns a function that launches the
    operation with the settings of the table and returns its outputs.
    """

    op: str
    key: str
    candidates: tuple[LaunchSettings, ...]  # the first is the default
    prepare: Callable[[], Callable[[], Outputs]]


@dataclass(slots=True)
class Tuned:
    """Result of a search: seconds of the usable candidates."""

    trial: Trial
    seconds: dict[LaunchSettings, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_complete: bool = True  # all candidates were tried, and the default succeeded

    @property
    def default(self) -> LaunchSettings:
        return self.trial.candidates[0]

    @property
    def settings(self) -> LaunchSettings:
        """The fastest; the default if no other is clearly faster, or the default was not timed."""
        fastest = min(self.seconds, key=self.seconds.__getitem__, default=self.default)
        limit = self.seconds.get(self.default, 0.0) * _WORTHWHILE
        return fastest if self.seconds.get(fastest, limit) < limit else self.default


def search(
    trial: Trial,
    timer: Timer,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Time the candidates until the deadline.

    A candidate that fails, or whose outputs differ from the default's, is dropped with a note. If
    the default itself fails, nothing else is tried.
    """
    tuned, expected = Tuned(trial), None
    for settings in trial.candidates:
        if clock() >= deadline:
            tuned.is_complete = False
            break
        try:
            with using(trial.op, trial.key, settings):
                launch = trial.prepare()
                outputs = launch()
                if expected is None:
                    # A launch may return memory that the next one overwrites.
                    expected = tuple(output.clone() for output in outputs)
                _check_outputs(outputs, expected)
                tuned.seconds[settings] = timer(launch)
        except Exception as error:  # Triton's and ptxas' errors have no common class
            tuned.notes.append(
                f"{trial.op} {trial.key}: {settings} is left out ({_first_line(error)})"
            )
            if not tuned.seconds:
                tuned.is_complete = False
                break
    return tuned


def time_on_device(launch: Callable[[], object]) -> float:
    """Median seconds of a launch on a CUDA device, with none of the inputs in the L2 cache, as
    after the layer before."""
    from triton.testing import do_bench  # a host without a device never needs it

    return 1e-3 * float(
        do_bench(launch, warmup=_WARM_UP_MS, rep=_MEASURED_MS, return_mode="median")
    )


def candidates_from(default: LaunchSettings, *others: Mapping[str, float]) -> list[LaunchSettings]:
    """The default, then each of `others` (factors of its fields), without duplicates and values
    out of range."""
    found = [default]
    for factors in others:
        scaled = {name: round(getattr(default, name) * by) for name, by in factors.items()}
        try:
            found.append(LaunchSettings(**{**asdict(default), **scaled}))
        except ValueError:
            continue
    return list(dict.fromkeys(found))


def normal(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> torch.Tensor:
    """Normal random inputs, the same for the same seed."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


def _check_outputs(outputs: Outputs, expected: Outputs) -> None:
    """ValueError unless outputs differ by rounding alone: sums may be in another order, and an
    intermediate value may round either way."""
    for output, wanted in zip(outputs, expected, strict=True):
        if not wanted.is_floating_point():
            is_right = torch.equal(output, wanted)
        else:
            unit = 4 * torch.finfo(wanted.dtype).eps + 64 * torch.finfo(torch.float32).eps
            bound = unit * wanted.float().abs().max()
            is_right = bool(((output.float() - wanted.float()).abs() <= bound).all())
        if not is_right:
            raise ValueError("its results are not those of the default")


def _first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0][:200] or type(error).__name__
