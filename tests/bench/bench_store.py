"""The share of journal and publishing in a run, and the memory of a large one.

    python tests/bench/bench_store.py scale --rows 500000      # the fake model, as a command
    python tests/bench/bench_store.py overhead --rows 60000    # 1,000 artifacts a second
    python tests/bench/bench_store.py overhead --manifest sample_data/manifest.yaml

`scale`: rows through the scheduler on a model that computes nothing; memory of the run and of its
engine once a second, artifacts a second of engine time, and whether store and journal are whole.
`overhead`: the same night with its store and with one that forgets its rows, in turn: how much
longer the engine takes from its first token to its last, and how much of the run's own process
goes into the store. The fake engine sleeps like a device that others do not slow down, and answers
1,000 rows a second; `--manifest`: any night instead. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from provenance import short_commit

from thothy_batch.engine.cost.measurement_cache import device_name
from thothy_batch.engine.hardware.cpu import num_cores
from thothy_batch.manifest.settings import Overrides
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal.segment import segment_paths
from thothy_batch.store.store import Store

CALLS = (
    *("begin_run", "update_run", "record_predictions", "record_totals"),
    *("add", "add_copy", "end_run", "tick", "answers", "past_outputs", "close"),
)
FORGOTTEN = ("add", "add_copy", "tick", "record_totals", "update_run")
# The fake engine's id and tokens of a row. STEADY: 1,024 rows at once, each about a second.
FAST, STEADY = ("builtin:fake", 4), ("builtin:fake?step_ms=10", 64)


def make_night(folder: Path, num_rows: int, engine: tuple[str, int]) -> Path:
    """Raw rows, all different, and their manifest."""
    model, max_tokens = engine
    ids = pa.array([f"row-{i}" for i in range(num_rows)])
    prompts = pa.array([f"prompt number {i} of the night" for i in range(num_rows)])
    pq.write_table(pa.table({"id": ids, "prompt": prompts}), folder / "rows.parquet")
    manifest = folder / "manifest.yaml"
    manifest.write_text(
        f'model: {{id: "{model}"}}\nengine: {{max_seqs: 1024}}\n'
        "jobs:\n  - {name: large, kind: raw, input: rows.parquet, "
        f"sampling: {{max_tokens: {max_tokens}, ignore_eos: true}}}}\n"
    )
    return manifest


def scale(num_rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_night(folder, num_rows, FAST)
        command = [sys.executable, "-m", "thothy_batch", "run", str(manifest), "--json", "--quiet"]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            memory = watch(process, began)
            assert process.stdout is not None
            summary = json.load(process.stdout)
        assert process.returncode == 0, process.returncode
        store = folder / "artifacts.duckdb"
        check_whole(store, num_rows)
        return {
            "rows": num_rows,
            "wall_s": round(time.monotonic() - began, 1),
            "engine_s": round(summary["engine_s"], 1),
            "artifacts_per_engine_s": round(num_rows / summary["engine_s"]),
            "artifacts_per_wall_s": round(num_rows / summary["wall_s"]),
            "store_bytes": store.stat().st_size,
            **memory,
        }


def watch(process: "subprocess.Popen[bytes]", began: float) -> dict[str, Any]:
    """Resident MB of the run and of its children, until it ends, once a second."""
    run, points = psutil.Process(process.pid), []
    while process.poll() is None:
        try:
            own = run.memory_info().rss
            rest = sum(child.memory_info().rss for child in run.children(recursive=True))
            points.append((time.monotonic() - began, own / 1e6, rest / 1e6))
        except psutil.Error:
            pass
        time.sleep(1.0)
    after = [(own, rest) for at, own, rest in points if at >= 60.0] or [points[-1][1:]]
    totals = [own + rest for own, rest in after]
    return {
        "rss_mb_after_a_minute": round(totals[0]),
        "most_rss_mb_after_a_minute": round(max(totals)),
        "growth_after_a_minute": round(max(totals) / totals[0] - 1, 3),
        "peak_rss_mb": round(max(own + rest for _, own, rest in points)),
        "rss_mb": [[round(at), round(own), round(rest)] for at, own, rest in points[::10]],
    }


def check_whole(store: Path, num_rows: int) -> None:
    """Every row has its artifact and its end, once; nothing waits in the journal."""
    with duckdb.connect(str(store), read_only=True) as connection:
        counts = connection.execute(
            "select (select count(distinct item_id) from artifacts), "
            "(select count(*) from artifacts), (select sum(output_tokens) from artifacts), "
            "(select count(*) from run_items where status = 'done'), "
            "(select count(*) from failures), (select num_done from runs)"
        ).fetchone()
    assert counts == (num_rows, num_rows, 4 * num_rows, num_rows, 0, num_rows), counts
    assert not segment_paths(journal_folder(store)), "the journal was not merged"


def overhead(manifest: Path, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {"kept": [], "forgotten": []}
    for _ in range(rounds):
        for how, found in runs.items():
            with tempfile.TemporaryDirectory() as name:
                found.append(timed_run(manifest, Path(name) / "artifacts.duckdb", how == "kept"))
            print(how, found[-1], file=sys.stderr)
    ratios = [
        kept["engine_s"] / forgotten["engine_s"]
        for kept, forgotten in zip(runs["kept"], runs["forgotten"], strict=True)
    ]
    return {
        "artifacts_per_s": round(median(run["artifacts_per_s"] for run in runs["kept"]), 1),
        "engine_s_ratio": round(median(ratios), 4),
        "engine_s_ratios": [round(ratio, 4) for ratio in sorted(ratios)],
        "store_share_of_process": round(median(r["store_share"] for r in runs["kept"]), 4),
        "runs": runs,
    }


def timed_run(manifest: Path, store: Path, is_kept: bool) -> dict[str, Any]:
    """A run with every call of the store timed. What is not kept never gets to the journal."""
    spent: dict[str, float] = dict.fromkeys(CALLS, 0.0)
    originals = {name: getattr(Store, name) for name in CALLS}
    depth = 0

    def timed(name: str) -> Callable[..., Any]:
        @wraps(originals[name])
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth
            if not is_kept and name in FORGOTTEN:
                return None
            depth += 1
            began = time.perf_counter()
            try:
                return originals[name](*args, **options)
            finally:
                depth -= 1
                if not depth:  # what one calls of the others is part of it
                    spent[name] += time.perf_counter() - began

        return call

    for name in CALLS:
        setattr(Store, name, timed(name))
    began = time.perf_counter()
    try:
        summary = run_manifest(RunOptions(manifest, Overrides(store=store)), Silent())
    finally:
        for name, original in originals.items():
            setattr(Store, name, original)
    wall_s = time.perf_counter() - began
    assert summary.exit_code in (0, 1), summary
    in_store, done = sum(spent.values()), summary.counts["num_done"]
    return {
        "wall_s": round(wall_s, 2),
        "engine_s": round(summary.engine_s, 3),
        "artifacts": done,
        "artifacts_per_s": round(done / summary.engine_s, 1),
        "store_s": round(in_store, 3),
        "store_share": round(in_store / wall_s, 4),
        "store_s_by_call": {name: round(s, 3) for name, s in spent.items() if s >= 0.0005},
        "us_per_artifact": round(1e6 * in_store / max(done, 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["scale", "overhead"])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--manifest", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {
        "benchmark": f"bench_store {args.what}",
        "commit": short_commit(),
        "cpu": device_name("cpu"),
        "cores": num_cores(),
    }
    if args.what == "scale":
        found |= scale(args.rows)
    elif args.manifest is not None:
        found |= {"manifest": args.manifest.name} | overhead(args.manifest, args.rounds)
    else:
        with tempfile.TemporaryDirectory() as name:
            manifest = make_night(Path(name), args.rows, STEADY)
            found |= {"rows": args.rows} | overhead(manifest, args.rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
