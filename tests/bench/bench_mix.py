"""The `mix` workload through `kind: raw`, beside transformers' padded generate, in one session.

    python tests/bench/bench_mix.py --n 48 --seed 1 --runs 1        # make bench

Builds the workload (real documents, fixed output lengths) and a random-weight Qwen3-0.6B checkpoint
with the scripts of the shared folder, then runs both engines in turn on the same token ids; each
must produce exactly max_tokens per request. The last line is JSON: medians, spread, ratio.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
from provenance import short_commit

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
MANIFEST = """
store: {store}
model: {{id: {model}, dtype: bfloat16}}
jobs:
  - name: mix
    kind: raw
    input: {workload}
    sampling: {{ignore_eos: true}}
output: {{token_ids: true}}
"""
FIGURES = """select prompt_tokens, cached_prompt_tokens, output_tokens, wasted_tokens, load_s,
             engine_s, wall_s, output_tokens_per_s, num_done from runs"""


def script(*args: object) -> str:
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{args[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def prepare(folder: Path, args: argparse.Namespace) -> tuple[Path, Path]:
    """The workload file and the checkpoint; a checkpoint that is there already is used again."""
    bench = SHARED / "bench"
    if not bench.is_dir():
        raise SystemExit("this benchmark needs the shared folder beside the checkout")
    workload = folder / f"{args.shape}.parquet"
    print(
        script(
            bench / "workload.py", args.shape, "--n", args.n, "--seed", args.seed, "--out", workload
        ),
        end="",
    )
    model = args.model or folder / "qwen3-0.6b"
    if not (model / "config.json").exists():
        tokenizer = SHARED / "data/tokenizers/qwen2"
        print(
            script(bench / "make_checkpoint.py", "qwen3-0.6b", model, "--tokenizer", tokenizer),
            end="",
        )
    return workload, model


def ours(folder: Path, workload: Path, model: Path, number: int) -> dict[str, float]:
    """One night of our own; the figures are those of its runs row."""
    store = folder / f"store-{number}.duckdb"
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST.format(store=store, model=model, workload=workload))
    script("-m", "thothy_batch", "run", manifest, "--quiet")
    with duckdb.connect(str(store), read_only=True) as db:
        cursor = db.execute(FIGURES)
        row = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
        short = db.execute(
            "select count(*) from artifacts where output_tokens <> len(output_token_ids)"
        )
        assert short.fetchone() == (0,)
    return row


def peer(workload: Path, model: Path, batch: int) -> dict[str, float]:
    out = script(SHARED / "bench/peers/transformers_static.py", workload, model, batch)
    return dict(json.loads(out.strip().splitlines()[-1]))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--shape", default="mix", choices=["mix", "fanout"])
    ap.add_argument("--n", type=int, default=48)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--runs", type=int, default=1)
    ap.add_argument("--peer-batch", type=int, default=16)
    ap.add_argument("--no-peer", action="store_true")
    ap.add_argument("--model", type=Path, help="a checkpoint that is kept between calls")
    ap.add_argument("--out", type=Path, help="write the JSON here as well")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory(prefix="thothy-bench-") as name:
        folder = Path(name)
        workload, model = prepare(folder, args)
        a, b = [], []
        for number in range(args.runs):
            a.append(ours(folder, workload, model, number))
            print("thothy-batch", json.dumps(a[-1]), flush=True)
            if not args.no_peer:
                b.append(peer(workload, model, args.peer_batch))
                print("transformers", json.dumps(b[-1]), flush=True)
    report = summary(args, a, b)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


def summary(args: argparse.Namespace, a: list[dict], b: list[dict]) -> dict[str, object]:
    seconds = [row["engine_s"] for row in a]
    out: dict[str, object] = {
        "workload": args.shape, "n": args.n, "seed": args.seed, "runs": args.runs,
        "engine_s": statistics.median(seconds), "engine_s_min_max": [min(seconds), max(seconds)],
        "output_tokens_per_s": statistics.median(row["output_tokens_per_s"] for row in a),
        "thothy_batch": a, "transformers_static": b,
        "commit": short_commit(), "cores": os.cpu_count(), "machine": platform.machine(),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numba")},
    }  # fmt: skip
    if b:
        ratios = [y["wall_s"] / x["engine_s"] for x, y in zip(a, b, strict=True)]
        out["ratio_to_transformers"] = statistics.median(ratios)
        out["ratio_min_max"] = [min(ratios), max(ratios)]
    return out


if __name__ == "__main__":
    main()
