"""Nights that are disturbed at named places, several times in a row, and must end as undisturbed.

    python tests/robustness/crash/points.py --nights 250 --out tests/bench/results/fault-points.json
    python tests/robustness/crash/points.py --nights 60 --model embedded
    python tests/robustness/crash/points.py --nights 4               # as in CI

A night of the fake model, or of the embedded one in float32: greedy rows, seeded rows, samples,
bad rows, rows that repeat others.
Each is run one to three times with a fault armed (kill, an error of the system, a full disk, a
delay, a torn write, at some pass of some place; or kill -9 at a random moment), then once more in
peace. Its rows, counts and files are compared with those of a night that nothing disturbed. The
last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

REFUSALS = ("error", "full")
EVERYWHERE = ("kill", "delay:0.3")
# Where, how, and how often a night passes there at most.
PLACES: dict[str, tuple[tuple[str, ...], int]] = {
    "journal.create": ((*EVERYWHERE, *REFUSALS), 2),
    "journal.write": ((*EVERYWHERE, *REFUSALS, "torn"), 6),
    "journal.sync": ((*EVERYWHERE, *REFUSALS), 6),
    "journal.synced": (EVERYWHERE, 6),
    "journal.rotate": (EVERYWHERE, 3),
    "file.write": ((*EVERYWHERE, *REFUSALS, "torn"), 8),
    "file.rename": ((*EVERYWHERE, *REFUSALS), 8),
    "file.renamed": (EVERYWHERE, 8),
    "index.sync": ((*EVERYWHERE, *REFUSALS), 2),
    "publish.begin": (EVERYWHERE, 2),
    "publish.commit": (EVERYWHERE, 2),
    "publish.committed": (EVERYWHERE, 2),
    "publish.remove": ((*EVERYWHERE, *REFUSALS), 2),
    "engine.load": ((*EVERYWHERE, "error"), 1),
    "engine.step": ((*EVERYWHERE, "error"), 40),
    "engine.stepped": ((*EVERYWHERE, "error"), 40),
    "engine.report": ((*EVERYWHERE, "error"), 5),
    "run.submit": (EVERYWHERE, 3),
    "run.polled": (EVERYWHERE, 8),
    "run.end": (EVERYWHERE, 1),
}
# Exit codes of a disturbed run: killed, failed, or nothing came of the fault.
GOOD_CODES = {-signal.SIGKILL, 0, 1, 2, 5}
ROWS = """select job, item_id, variant, text, data::varchar, verdict, flags, finish_reason, attempt,
          output_tokens, seed, reused_from is null from artifacts order by all"""
FAILED = """select job, item_id, variant, code from latest_failures order by all"""
LEFT = {"lock", "status.json", "events.jsonl", "answers.json", "answers.jsonl", "engine.log"}
MODELS = {"fake": '{id: "builtin:fake?step_ms=4"}', "embedded": "{dtype: float32}"}
MANIFEST = """\
model: MODEL
engine: {max_seqs: 16}
jobs:
  - {name: greedy, kind: raw, input: greedy.parquet, sampling: {max_tokens: 12}}
  - {name: seeded, kind: raw, input: seeded.parquet, sampling: {max_tokens: 9, temperature: 0.8}}
  - {name: hooks, kind: hook, input: hooks.parquet, params: {variants: 3}}
"""


def make_night(folder: Path, model: str) -> None:
    folder.mkdir()
    (folder / "manifest.yaml").write_text(MANIFEST.replace("MODEL", MODELS[model]))
    greedy = [f"row {i % 30}" for i in range(36)] + [None, ""]
    pq.write_table(
        pa.table({"id": list(range(len(greedy))), "prompt": greedy}), folder / "greedy.parquet"
    )
    seeded = [f"other {i}" for i in range(24)]
    pq.write_table(
        pa.table({"id": list(range(len(seeded))), "prompt": seeded}), folder / "seeded.parquet"
    )
    texts = [f"A lamp of {i} W." for i in range(8)]
    pq.write_table(
        pa.table({"id": list(range(len(texts))), "text": texts}), folder / "hooks.parquet"
    )


def run(folder: Path, faults: str = "", kill_after: float | None = None) -> tuple[int, str]:
    """One run: its exit code, and what it said."""
    environment = {
        **os.environ,
        "THOTHY_FAULTS": faults,
        "THOTHY_FAULT_MARKS": str(folder / "marks"),
    }
    (folder / "marks").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "thothy_batch", "run", str(folder / "manifest.yaml"), "--quiet"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
    _, said = process.communicate(timeout=900)
    return process.returncode, said


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a night that faults must not change."""
    with duckdb.connect(str(folder / "artifacts.duckdb"), read_only=True) as db:
        adds_up = db.execute(
            """select count(*) from runs r where num_items is distinct from
               num_done + num_failed + num_reused + num_not_run or num_items is distinct from
               (select count(*) from run_items i where i.run_id = r.run_id)"""
        ).fetchall()
        twice = db.execute(
            """select count(*) from (select run_id, job, item_id, variant from run_items
               group by all having count(*) > 1)"""
        ).fetchall()
        running = db.execute("select count(*) from runs where status = 'running'").fetchall()
        return {
            "artifacts": db.execute(ROWS).fetchall(),
            "failures": db.execute(FAILED).fetchall(),
            "bad_counts": adds_up[0][0] + twice[0][0] + running[0][0],
            "orphans": sorted(
                path.name
                for path in (folder / "artifacts.duckdb.journal").iterdir()
                if path.name not in LEFT
            ),
        }


def disturbances(rng: random.Random, normal_s: float) -> list[tuple[str, float | None]]:
    """The event that hits a run: a fault, or kill -9 after a time."""
    found: list[tuple[str, float | None]] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.2:
            found.append(("", rng.uniform(0.2, normal_s)))
            continue
        place = rng.choice(list(PLACES))
        actions, most = PLACES[place]
        found.append((f"{place}:{rng.randint(1, most)}={rng.choice(actions)}", None))
    return found


def disturbed(folder: Path, plan: list[tuple[str, float | None]], tally: Counter[str]) -> None:
    """Raises SystemExit for an end that no fault may have."""
    for faults, kill_after in plan:
        code, said = run(folder, faults, kill_after)
        tally["fired" if any((folder / "marks").iterdir()) or kill_after else "not reached"] += 1
        shutil.rmtree(folder / "marks")
        tally[f"exit {code}"] += 1
        if code not in GOOD_CODES or "Traceback" in said:
            raise SystemExit(f"{faults or 'kill -9'}: exit {code}\n{said[-3000:]}")
        if code in (2, 5) and len(said.strip()) < 20:
            raise SystemExit(f"{faults}: exit {code} without a sentence: {said!r}")
    code, said = run(folder)
    if code != 1:  # some rows are bad on purpose
        raise SystemExit(f"after {plan}: the run in peace ends with {code}\n{said[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nights", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=sorted(MODELS), default="fake")
    parser.add_argument("--out", type=Path, help="write the JSON report here as well")
    args = parser.parse_args()
    rng, tally = random.Random(args.seed), Counter[str]()
    work = Path(tempfile.mkdtemp(prefix="thothy-points-"))
    try:
        make_night(work / "peace", args.model)
        began = time.monotonic()
        code, said = run(work / "peace")
        if code != 1:
            raise SystemExit(f"the night in peace ends with {code}\n{said[-3000:]}")
        normal_s = time.monotonic() - began
        expected = outcome(work / "peace")
        if expected["orphans"] or expected["bad_counts"]:
            raise SystemExit(f"the night in peace is not clean: {expected}")
        for number in range(args.nights):
            folder = work / str(number)
            make_night(folder, args.model)
            plan = disturbances(rng, normal_s)
            disturbed(folder, plan, tally)
            found = outcome(folder)
            wrong = [name for name in expected if found[name] != expected[name]]
            if wrong:
                details = {name: (expected[name], found[name]) for name in wrong}
                raise SystemExit(f"night {number}, {plan}: {wrong} differ: {str(details)[:3000]}")
            shutil.rmtree(folder)
            print(f"night {number + 1}/{args.nights}: {plan}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    num_runs = sum(n for name, n in tally.items() if name.startswith("exit"))
    report = {
        "benchmark": "fault_points",
        "model": args.model,
        "seed": args.seed,
        "nights": args.nights,
        "disturbed_runs": num_runs,
        "runs": num_runs + args.nights,
        "artifacts": len(expected["artifacts"]),
        "places": sorted(PLACES),
        "ends": dict(sorted(tally.items())),
        "differing": 0,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
