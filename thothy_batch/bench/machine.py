"""Figures of the machine for a benchmark: peak memory, busy share of the device, code version.

Torch is imported for a GPU only.
"""

import contextlib
import platform
import resource
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Self

from thothy_batch.engine.hardware import NvmlError, busy_percent, find_gpu, open_nvml

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLE_EVERY_S = 0.1
_MIN_SAMPLES = 5  # the driver averages over up to a second


def versions_of(device: str) -> dict[str, str]:
    """Versions that the engine does not report itself."""
    found = {"python": platform.python_version()}
    if device != "cpu":
        import torch

        found["cuda"] = str(torch.version.cuda)
    return found


class PeakMemory:
    """The peak memory since this object was made."""

    def __init__(self, device: str) -> None:
        self._on_cpu = device == "cpu"
        if self._on_cpu:
            # Resets the peak. Where that is not permitted, it counts from the process's start.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        else:
            import torch

            torch.cuda.init()  # type: ignore[no-untyped-call]  # the reset fails without it
            torch.cuda.reset_peak_memory_stats()

    def num_bytes(self) -> int:
        """Bytes resident in memory, or allocated on the GPU."""
        if not self._on_cpu:
            import torch

            return int(torch.cuda.max_memory_allocated())
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class BusyMeter:
    """Measures the share of time in which the GPU computed, for the length of a `with` block.

    `ask` returns the latest percentage, None where it is not known. Default: the driver's.
    """

    def __init__(
        self,
        device: str,
        *,
        ask: Callable[[], int | None] | None = None,
        every_s: float = _SAMPLE_EVERY_S,
    ) -> None:
        self._ask = ask or _busy_percent_of(device)
        self._every_s = every_s
        self._samples: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._ask is not None:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._ask is not None:
            self._thread.join()

    @property
    def fraction(self) -> float | None:
        """None where the driver does not report it, or the block was too short."""
        return fmean(self._samples) / 100 if len(self._samples) >= _MIN_SAMPLES else None

    def _watch(self) -> None:
        assert self._ask is not None
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(NvmlError):  # kept open: opening takes longer than asking
                stack.enter_context(open_nvml())
            while not self._over.wait(self._every_s):
                if (percent := self._ask()) is not None:
                    self._samples.append(percent)


def _busy_percent_of(device: str) -> Callable[[], int | None] | None:
    gpu = find_gpu() if device == "cuda" else None
    return None if gpu is None else partial(busy_percent, gpu)


def commit(root: Path = _ROOT) -> str | None:
    """The commit of a checkout, read from its files; None: no checkout."""
    try:
        folder = root / ".git"
        if folder.is_file():  # a linked worktree
            folder = root / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head
        return _commit_of(folder, head.removeprefix("ref:").strip())
    except (OSError, UnicodeDecodeError):
        return None


def _commit_of(folder: Path, ref: str) -> str | None:
    common = folder
    if (folder / "commondir").is_file():
        common = folder / (folder / "commondir").read_text(encoding="utf-8").strip()
    if (common / ref).is_file():
        return (common / ref).read_text(encoding="utf-8").strip()
    for line in (common / "packed-refs").read_text(encoding="utf-8").splitlines():
        if line.endswith(f" {ref}"):
            return line.split()[0]
    return None
