"""Paired nights on the real engine: `auto` with sharing against `fifo` without sharing.

    python tests/bench/bench_night.py --shapes mix fanout --seeds 1 2 3 --n 48 --out results.json

Random-weight Qwen3-0.6B in bfloat16, the workloads of the shared folder through `kind: raw`. First
one calibration (`doctor --model`); then for each workload A B, B A, ... in turn, each in a process
and a store of its own. Reads the runs row: computed and planned prompt tokens, engine seconds,
roofline_fraction, and the seconds that the plan had predicted. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
from bench_mix import SHARED, prepare, script
from provenance import short_commit

MANIFEST = """
store: {store}
model: {{id: {model}, dtype: bfloat16}}
engine: {{order: {order}, prefix_sharing: {sharing}}}
jobs:
  - {{name: night, kind: raw, input: {workload}, sampling: {{ignore_eos: true}}}}
output: {{token_ids: true}}
"""
SIDES = {"auto": ("auto", "true"), "fifo": ("fifo", "false")}
COLUMNS = (
    "num_done", "prompt_tokens", "cached_prompt_tokens", "planned_prompt_tokens",
    "computed_prompt_tokens", "output_tokens", "wasted_tokens", "load_s", "engine_s", "wall_s",
    "predicted_s", "roofline_fraction", "artifacts_per_hour",
)  # fmt: skip


def night(folder: Path, workload: Path, model: Path, side: str) -> dict[str, object]:
    """One run: its row, and the output token ids of every item."""
    order, sharing = SIDES[side]
    store = folder / f"{side}.duckdb"
    for left in (store, Path(f"{store}.journal")):
        subprocess.run(["rm", "-rf", left], check=True)
    manifest = folder / f"{side}.yaml"
    text = MANIFEST.format(
        store=store, model=model, order=order, sharing=sharing, workload=workload
    )
    manifest.write_text(text)
    script("-m", "thothy_batch", "run", manifest, "--quiet")
    with duckdb.connect(str(store), read_only=True) as db:
        values = db.execute(f"select {', '.join(COLUMNS)} from runs").fetchone()
        ids = dict(db.execute("select item_id, output_token_ids from artifacts").fetchall())
    row: dict[str, object] = dict(zip(COLUMNS, values, strict=True))
    row["prediction_off"] = row["predicted_s"] / row["engine_s"] - 1 if row["predicted_s"] else None
    return {"side": side, **row, "ids": ids}


def pairs(args: argparse.Namespace, folder: Path, shape: str, seed: int) -> dict[str, object]:
    options = argparse.Namespace(shape=shape, n=args.n, seed=seed, model=args.model)
    workload, model = prepare(folder, options)
    runs: list[dict[str, object]] = []
    agree = []
    for number in range(args.runs):
        sides = ("auto", "fifo") if number % 2 == 0 else ("fifo", "auto")
        found = {side: night(folder, workload, model, side) for side in sides}
        ids = {side: found[side].pop("ids") for side in sides}
        same = sum(ids["auto"][item] == ids["fifo"][item] for item in ids["auto"])
        agree.append(same / len(ids["auto"]))
        for side in sides:
            print(shape, seed, json.dumps(found[side], default=str), flush=True)
            runs.append(found[side])
    auto = [run for run in runs if run["side"] == "auto"]
    fifo = [run for run in runs if run["side"] == "fifo"]
    ratios = [b["engine_s"] / a["engine_s"] for a, b in zip(auto, fifo, strict=True)]
    return {
        "shape": shape, "seed": seed, "ratios": ratios, "ratio": statistics.median(ratios),
        "computed_share": auto[0]["computed_prompt_tokens"] / auto[0]["prompt_tokens"],
        "rows_with_equal_tokens": agree, "runs": runs,
    }  # fmt: skip


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--shapes", nargs="+", default=["mix", "fanout"], choices=["mix", "fanout"])
    ap.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    ap.add_argument("--n", type=int, default=48)
    ap.add_argument("--runs", type=int, default=1, help="pairs per workload")
    ap.add_argument("--model", type=Path, help="a checkpoint that is kept between calls")
    ap.add_argument("--out", type=Path, help="write the JSON here as well, after every workload")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory(prefix="thothy-bench-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        _, model = prepare(folder, argparse.Namespace(shape="mix", n=4, seed=1, model=args.model))
        doctor = json.loads(
            script(
                "-m", "thothy_batch", "doctor", "--json", "--model", model, "--dtype", "bfloat16"
            )
        )
        results = []
        for seed in args.seeds:
            for shape in args.shapes:
                results.append(pairs(args, folder, shape, seed))
                report = summary(args, doctor, results)
                if args.out:
                    args.out.write_text(json.dumps(report, indent=1, default=str) + "\n")
    table(results)
    print(json.dumps(report, default=str))


def summary(
    args: argparse.Namespace, doctor: dict[str, object], results: list[dict[str, object]]
) -> dict[str, object]:
    return {
        "benchmark": "night", "n": args.n, "runs": args.runs, "results": results,
        "doctor": doctor, "commit": short_commit(), "cores": os.cpu_count(),
        "python": sys.version.split()[0], "shared": SHARED.is_dir(),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "numba", "duckdb")},
    }  # fmt: skip


def table(results: list[dict[str, object]]) -> None:
    print(
        "| workload | computed | auto | fifo, unshared | ratio | roofline auto / fifo | predicted |"
    )
    print("|---|---|---|---|---|---|---|")
    for result in results:
        auto, fifo = (next(run for run in result["runs"] if run["side"] == side) for side in SIDES)
        off = ", ".join(f"{run['prediction_off']:+.0%}" for run in (auto, fifo))
        print(
            f"| {result['shape']}, seed {result['seed']} | {result['computed_share']:.1%} "
            f"| {auto['engine_s']:.1f} s | {fifo['engine_s']:.1f} s | {result['ratio']:.2f} "
            f"| {auto['roofline_fraction']:.0%} / {fifo['roofline_fraction']:.0%} | {off} |"
        )


if __name__ == "__main__":
    main()
