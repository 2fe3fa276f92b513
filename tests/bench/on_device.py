"""Runs a kernel's benchmark cases on a CUDA device, against what the device was measured to do.

A bench file defines `cases(device, tiny)` and ends with `main(cases, __doc__)`. `--dry-run` runs
tiny cases once in the interpreter of Triton, on the CPU, and shows only that they run. The last
line is one JSON document.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before the bench file imports a kernel

import torch  # noqa: E402
from provenance import of_device  # noqa: E402

_REPETITIONS = 30
_FLUSHED_BYTES = 256 << 20  # more than any level 2 cache
# The device waits so long before each run, meanwhile the host has queued it: a millisecond.
_HEAD_START_CYCLES = 2_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time. target: share of the measured copy bandwidth if num_bytes says how much
    it has to move, else of the measured bfloat16 matmul rate for num_flops."""

    name: str
    run: Callable[[], object]
    num_bytes: int = 0
    num_flops: int = 0
    target: float | None = None
    target_tflops: float | None = None
    beside: str = ""  # an earlier case of the same work, and how many times as fast this should be
    target_ratio: float | None = None


def main(cases: Callable[[str, bool], Iterator[Case]], description: str) -> None:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    options = parser.parse_args()
    if options.dry_run:
        found = map(_tried, cases("cpu", True))
    elif torch.cuda.is_available():
        found = _measured(cases("cuda", False))
    else:
        sys.exit("no CUDA device here; --dry-run shows that the cases run")
    document = {"benchmark": Path(sys.argv[0]).stem, "dry_run": options.dry_run}
    document |= of_device(is_dry_run=options.dry_run)
    results: list[dict[str, object]] = []
    for result in found:
        results.append(result)
        if options.out is not None:  # after each: what is cut off keeps what was done
            options.out.write_text(json.dumps(document | {"cases": results}) + "\n")
    print(json.dumps(document | {"cases": results}))
    sys.exit(any("error" in result for result in results))


def _tried(case: Case) -> dict[str, object]:
    case.run()
    print(f"{case.name}: ran")
    return {"case": case.name}


def _measured(cases: Iterator[Case]) -> Iterator[dict[str, object]]:
    """A case that fails is told with its error, and the others run."""
    ceilings = _ceilings()
    medians: dict[str, float] = {}
    for case in cases:
        try:
            times = _times(case.run)
        except (RuntimeError, ValueError) as error:  # of torch and CUDA, of our contracts
            print(f"{case.name}: FAILED: {error}")
            yield {"case": case.name, "error": str(error)}
            continue
        medians[case.name] = median(times)
        yield _figures(case, times, ceilings, medians.get(case.beside))


def _figures(
    case: Case, times: list[float], ceilings: tuple[float, float], beside_s: float | None
) -> dict[str, object]:
    seconds = median(times)
    work, ceiling = (
        (case.num_bytes, ceilings[0]) if case.num_bytes else (case.num_flops, ceilings[1])
    )
    reached = {"share": work / seconds / ceiling, "tflops": case.num_flops / seconds / 1e12}
    reached["ratio"] = beside_s / seconds if beside_s else 0.0
    targets = {"share": case.target, "tflops": case.target_tflops, "ratio": case.target_ratio}
    targets = {name: target for name, target in targets.items() if target is not None}
    missed = [name for name, target in targets.items() if reached[name] < target]
    shown = ", ".join(f"{reached[name]:.2f} {name}" for name in reached if reached[name])
    verdict = f"; target {targets}{': MISSED' if missed else ''}" if targets else ""
    print(f"{case.name}: {seconds * 1e3:.4f} ms, {shown}{verdict}")
    found = {"case": case.name, "median_s": seconds, "min_s": min(times), "max_s": max(times)}
    return found | reached | {"targets": targets, "missed": missed}


def _times(run: Callable[[], object]) -> list[float]:
    """Seconds on the device, launches excluded, with the level 2 cache flushed before each."""
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(3):
        run()
    pairs = []
    for _ in range(_REPETITIONS):
        flushed.zero_()
        torch.cuda._sleep(_HEAD_START_CYCLES)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]


def _ceilings() -> tuple[float, float]:
    """Measured bytes per second of a copy of 4 GiB, and bfloat16 operations per second on random
    numbers (zeros take less power, and are multiplied faster)."""
    bandwidth = _copy_bandwidth()
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return bandwidth, 2 * 8192**3 / median(_times(lambda: torch.mm(a, a)))


def _copy_bandwidth() -> float:
    source = torch.empty(4 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median(_times(lambda: target.copy_(source)))
