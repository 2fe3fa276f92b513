"""Nights of 10,000 to 1,000,000 requests on the simulated device: what planning them costs.

    python tests/bench/bench_simulation.py --out tests/bench/results/simulation-scale.json

Lengths in, a whole night planned and scheduled span by span: prompt and output lengths are drawn
from a trace (azure2023_conv of the shared folder), no prompt has tokens, nothing is shared. Each
size runs in a process of its own. Counted is all from the lengths to the last span: requests made,
planned, put into order, run. CPU seconds decide, since other programs may run beside; the last line
is JSON.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from provenance import short_commit

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.simulation.simulator import Simulator
from thothy_batch.plan import BlockHashes, plan_requests
from thothy_batch.records import LayerGroup, Request, Sampling

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared/data/traces"
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
BLOCK_SIZE = 32
POOL_BYTES = 100e9
MAX_SEQS, MAX_STEP_TOKENS = 1024, 8192
# An H200: operations and bytes a second of its data sheet's practical limits, of which 0.8.
H200_FLOPS, H200_BANDWIDTH, EFFICIENCY = 790e12, 4.3e12, 0.8

WORKS = {  # in bfloat16
    "llama-3.1-8b": ModelWork(
        body_parameters=6_979_588_096,
        head_parameters=128_256 * 4096,
        dtype_bytes=2,
        num_heads=32,
        head_dim=128,
        groups=(GroupWork(32, None, 2 * 32 * 8 * 128 * 2),),
    ),
    "qwen3-0.6b": ModelWork(
        body_parameters=440_467_456,
        head_parameters=151_936 * 1024,
        dtype_bytes=2,
        num_heads=16,
        head_dim=128,
        groups=(GroupWork(28, None, 2 * 28 * 8 * 128 * 2),),
    ),
}


def trace_lengths(name: str, num: int, seed: int) -> tuple[list[int], list[int]]:
    """Prompt and output lengths of `num` requests, drawn with replacement from a trace."""
    columns = ["prompt_tokens", "output_tokens"]
    table = pq.read_table(TRACES / f"{name}.parquet", columns=columns)
    pick = np.random.default_rng(seed).integers(0, table.num_rows, num)
    prompts, outputs = (np.maximum(table[c].to_numpy()[pick], 1).tolist() for c in columns)
    return prompts, outputs


def h200(work: ModelWork) -> tuple[EngineConfig, CostModel]:
    """An H200 with a pool of 100 GB."""
    token_bytes = sum(group.kv_bytes_per_token for group in work.groups)
    config = EngineConfig(
        device="cuda",
        impl="triton",
        dtype="bfloat16",
        layout=KVLayout((LayerGroup((0,)),), BLOCK_SIZE),
        num_blocks=int(POOL_BYTES) // (token_bytes * BLOCK_SIZE),
        max_seqs=MAX_SEQS,
        max_step_tokens=MAX_STEP_TOKENS,
        max_model_len=131_072,
        admission="reserve",
        prefix_sharing=True,
    )
    speed = StepSpeed.from_roofline(H200_FLOPS, H200_BANDWIDTH, work, efficiency=EFFICIENCY)
    return config, CostModel(work, speed)


def night(num: int, args: argparse.Namespace) -> dict[str, object]:
    """One night; its cost is that of this process."""
    prompts, outputs = trace_lengths(args.trace, num, args.seed)
    config, cost = h200(WORKS[args.model])
    moments = [(time.process_time(), time.perf_counter())]

    def passed() -> dict[str, float]:
        moments.append((time.process_time(), time.perf_counter()))
        (cpu_0, wall_0), (cpu_1, wall_1) = moments[-2:]
        return {"cpu_s": round(cpu_1 - cpu_0, 3), "wall_s": round(wall_1 - wall_0, 3)}

    requests = [
        Request(i, "", range(p), Sampling(max_tokens=o, ignore_eos=True))
        for i, (p, o) in enumerate(zip(prompts, outputs, strict=True))
    ]
    made = passed()
    # Of these prompts only the lengths are known, and they share nothing.
    lengths, starts = np.asarray(prompts, np.int64), np.zeros(len(prompts) + 1, np.int64)
    chains = BlockHashes(np.empty(0, np.uint64), starts, lengths, BLOCK_SIZE)
    plan = plan_requests(requests, args.order, chains=chains, pool_tokens=config.pool_tokens)
    ordered = plan.apply(requests)
    planned = passed()
    result = Simulator(config, cost).run(ordered)
    scheduled = passed()
    assert result.num_requests == num
    assert result.prefill_tokens == sum(prompts)
    assert result.output_tokens == sum(outputs)
    cpu_s, wall_s = (moments[-1][i] - moments[0][i] for i in (0, 1))
    return {
        "num_requests": num,
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "cpu_us_per_request": round(cpu_s / num * 1e6, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "make": made,
        "plan": planned,
        "schedule": scheduled,
        "simulated_s": round(result.seconds, 1),
        "num_spans": result.num_batches,
        "num_steps": result.num_steps,
        "row_steps": result.output_tokens,
        "peak_running": result.peak_running,
    }


def measured(num: int, args: argparse.Namespace) -> dict[str, object]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", num, "--seed", args.seed, "--trace", args.trace]
    command += ["--order", args.order, "--model", args.model]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def plot(rows: list[dict], path: Path) -> None:
    """CPU time per request and peak memory over the size of the night, as a small SVG."""
    width, height, left, top, gap = 640, 240, 60, 30, 340
    sizes = [row["num_requests"] for row in rows]
    low, high = np.log10(min(sizes)), np.log10(max(sizes))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 60}" height="{height + 70}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    panels = (("cpu_us_per_request", "CPU µs per request"), ("peak_rss_mb", "peak memory, MB"))
    for panel, (name, title) in enumerate(panels):
        x0, most = left + panel * gap, 1.2 * max(row[name] for row in rows)
        xs = [x0 + 250 * (np.log10(n) - low) / max(high - low, 1e-9) for n in sizes]
        ys = [top + height * (1 - row[name] / most) for row in rows]
        parts.append(f'<text x="{x0}" y="18" font-size="13">{title}</text>')
        parts.append(
            f'<path d="M{x0} {top} V{top + height} H{x0 + 250}" fill="none" stroke="#888"/>'
        )
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="2"/>')
        for x, y, row in zip(xs, ys, rows, strict=True):
            n = row["num_requests"]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#06c"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{row[name]:.0f}</text>'
            )
            parts.append(
                f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">'
                f"{f'{n // 1000}k' if n < 1_000_000 else f'{n // 1_000_000}M'}</text>"
            )
    parts.append(f'<text x="{left}" y="{top + height + 34}">requests of the night</text></svg>')
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def provenance() -> dict[str, object]:
    """The origin of the figures, as a reader needs it."""
    return {
        "commit": short_commit(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    ap.add_argument("--runs", type=int, default=3, help="of each size below 1,000,000")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--trace", default="azure2023_conv")
    ap.add_argument("--order", default="auto")
    ap.add_argument("--model", default="llama-3.1-8b", choices=WORKS)
    ap.add_argument("--one", type=int, help="this size alone, in this process")
    ap.add_argument("--out", type=Path, help="write the JSON here as well, and a plot beside it")
    args = ap.parse_args()
    if args.one:
        print(json.dumps(night(args.one, args)))
        return
    print("| requests | CPU s | wall s | CPU µs per request (min-max) | peak MB | row-steps |")
    print("|---|---|---|---|---|---|")
    rows, spreads = [], []
    for num in args.sizes:
        runs = [measured(num, args) for _ in range(args.runs if num < 1_000_000 else 1)]
        runs.sort(key=lambda row: row["cpu_s"])
        row = runs[(len(runs) - 1) // 2]
        spread = [runs[0]["cpu_us_per_request"], runs[-1]["cpu_us_per_request"]]
        rows.append(row)
        spreads.append({"runs": len(runs), "cpu_us_min_max": spread})
        print(
            f"| {num:,} | {row['cpu_s']:.1f} | {row['wall_s']:.1f} | "
            f"{row['cpu_us_per_request']:.1f} ({spread[0]:.1f}-{spread[1]:.1f}) | "
            f"{row['peak_rss_mb']:,} | {row['row_steps']:,} |",
            flush=True,
        )
    sizes = [row | spread for row, spread in zip(rows, spreads, strict=True)]
    growth = rows[-1]["cpu_us_per_request"] / rows[0]["cpu_us_per_request"] - 1
    report = {
        "trace": args.trace, "seed": args.seed, "model": args.model, "order": args.order,
        "device": "H200 roofline", "max_seqs": MAX_SEQS, "max_step_tokens": MAX_STEP_TOKENS,
        "growth_per_request": round(growth, 4), "sizes": sizes,
        **provenance(),
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        plot(rows, args.out.with_suffix(".svg"))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
