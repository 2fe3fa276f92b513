"""Engine time by operation, for a workload computed in this process.

    python tests/bench/bench_profile.py W.parquet --model CHECKPOINT
    python tests/bench/bench_profile.py W.parquet --model CHECKPOINT --impl reference --limit 8

Each operation of the decoder is timed as it is called, on the CPU, where a call ends when its work
does. Steps that compute prompts, that only decode and that verify drafts are counted apart; `glue`
is what a step takes beside its operations, `between` what passes between steps. The last line is
JSON.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import short_commit

from thothy_batch.bench import measure
from thothy_batch.bench.files import raw_workload
from thothy_batch.bench.measure import run_bench
from thothy_batch.engine.execution.cpu_runner import CPURunner
from thothy_batch.engine.execution.sampler import Sampler
from thothy_batch.model import decoder
from thothy_batch.records import EngineSpec, ModelSpec
from thothy_kernels.linear import PackedLinear

FUNCTIONS = ("rms_norm", "add_rms_norm", "rope_and_write_kv", "paged_attention", "gated")


class Profile:
    """Seconds and calls of each operation, apart by kind of step."""

    def __init__(self) -> None:
        self.kind = "other"
        self.cells: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])

    def watch(self) -> None:
        """Time everything that is called from now on."""
        for name in FUNCTIONS:
            setattr(decoder, name, self._timed(name, getattr(decoder, name)))
        multiply = PackedLinear.__call__

        def product(linear: PackedLinear, x: Any) -> Any:
            name = f"linear {linear.in_features} x {linear.out_features}"
            return self._timed(name, multiply)(linear, x)

        run = CPURunner.run

        def step(runner: CPURunner, batch: Any) -> Any:
            self.kind = _kind_of(batch)
            return self._timed("step", run)(runner, batch)

        compute = measure.compute

        def whole(*args: Any) -> Any:
            self.cells.clear()  # of loading and warming up
            return self._timed("all", compute)(*args)

        PackedLinear.__call__ = product  # type: ignore[method-assign]
        CPURunner.run = step  # type: ignore[method-assign]
        Sampler.sample = self._timed("sample", Sampler.sample)  # type: ignore[method-assign]
        measure.compute = whole

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            cell = self.cells["" if name == "all" else self.kind, name]
            cell[0] += 1
            cell[1] += time.perf_counter() - began
            return result

        return call

    def table(self) -> dict[str, dict[str, dict[str, float]]]:
        """By kind of step and operation: calls, seconds, share of the engine's time."""
        steps = {kind: cell[1] for (kind, name), cell in self.cells.items() if name == "step"}
        whole = self.cells["", "all"][1]
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for (kind, name), (calls, seconds) in self.cells.items():
            if name in ("step", "all"):
                continue
            rows.setdefault(kind, {})[name] = _row(calls, seconds, whole)
        for kind, seconds in steps.items():
            glue = seconds - sum(row["s"] for row in rows[kind].values())
            rows[kind]["glue"] = _row(self.cells[kind, "step"][0], glue, whole)
        between = whole - sum(steps.values())
        rows["between"] = {"all": _row(1, between, whole)}
        return rows


def _kind_of(batch: Any) -> str:
    if batch.max_query_len == 1:
        return "decode"
    return "prefill" if len(batch.cu_seqlens) - 1 > batch.num_decoding else "verify"


def _row(calls: float, seconds: float, whole: float) -> dict[str, float]:
    return {"calls": int(calls), "s": seconds, "share": seconds / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--impl", default="auto")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--speculation", default="auto")
    parser.add_argument("--limit", type=int, default=None)
    args = parser.parse_args()
    model = ModelSpec(id=str(args.model), dtype=args.dtype, quantization=args.quantization)
    spec = EngineSpec(model=model, device="cpu", impl=args.impl, speculation=args.speculation)
    profile = Profile()
    profile.watch()
    workload = raw_workload(args.workload, limit=args.limit)
    figures = run_bench(spec, workload.requests, workload=str(args.workload), owns_process=True)
    table = profile.table()
    for kind, rows in table.items():
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["s"]):
            print(f"{kind:8} {name:24} {row['calls']:7} {row['s']:9.3f} s {row['share']:6.1%}")
    figures_json = figures.as_json()
    kept = ("engine_s", "roofline_fraction", "num_steps", "output_tokens", "peak_memory_bytes")
    print(
        json.dumps(
            {
                "benchmark": "profile",
                "commit": short_commit(),
                "workload": args.workload.name,
                "quantization": args.quantization,
                "speculation": args.speculation,
                **{name: figures_json.get(name) for name in kept},
                "operations": table,
            }
        )
    )


if __name__ == "__main__":
    main()
