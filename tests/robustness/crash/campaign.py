"""kill -9 at random moments of a night, then the same night again: nothing lost, nothing twice.

    python tests/robustness/crash/campaign.py --kills 20            # the sample night (make faults)
    python tests/robustness/crash/campaign.py --kills 3 --short     # a short night, as in CI

For each kill: a fresh store, a run, kill -9 after a random share of the undisturbed run's time
(by turns the parent alone, and parent and children together), a check that no child lives on,
the same run again at once, and a comparison with the undisturbed night. The last line is JSON.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from thothy_batch.resources import data_path
from thothy_batch.store.database.database import open_copy
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal.segment import read_segment, segment_paths

Rows = list[tuple[object, ...]]
ROOT = Path(__file__).resolve().parents[3]
ROWS = """select job, item_id, variant, text, data::varchar, verdict, finish_reason, output_tokens
          from artifacts order by all"""


@dataclass
class Kill:
    """One kill and what was found after it."""

    moment_s: float
    parent_only: bool
    committed: int  # artifacts in the store or its journal after the kill
    reused: int  # of the second run
    done: int
    seconds: float


def command(manifest: Path, store: Path, limit: int | None) -> list[str]:
    cmd = [sys.executable, "-m", "thothy_batch", "run", str(manifest), "--store", str(store)]
    return [*cmd, "--quiet", *(["--limit", str(limit)] if limit else [])]


def night(manifest: Path, store: Path, limit: int | None) -> float:
    """Run to the end; returns seconds. Exit codes 0 and 1 are good (bad rows on purpose)."""
    start = time.monotonic()
    done = subprocess.run(command(manifest, store, limit), capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"run failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.monotonic() - start


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, from /proc."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found |= {child} | descendants(child)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(process: subprocess.Popen[bytes], *, parent_only: bool) -> None:
    """kill -9, then fail if a child lives longer than two seconds."""
    children = descendants(process.pid)
    if parent_only:
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 2.0
    while any(alive(pid) for pid in children):
        if time.monotonic() > deadline:
            raise SystemExit(f"children live on: {[pid for pid in children if alive(pid)]}")
        time.sleep(0.02)


def rows(store: Path) -> Rows:
    with duckdb.connect(str(store), read_only=True) as db:
        return db.execute(ROWS).fetchall()


def committed_artifact_ids(store: Path) -> set[str]:
    """Artifacts that a killed run left in the database or its journal; changes neither."""
    found: set[str] = set()
    if store.exists():
        with open_copy(store) as db:
            tables = db.execute("select 1 from duckdb_tables() where table_name = 'artifacts'")
            if tables.fetchone():
                rows = db.execute("select artifact_id from artifacts").fetchall()
                found |= {row[0] for row in rows}
    folder = journal_folder(store)
    for path in segment_paths(folder) if folder.is_dir() else ():
        records = read_segment(path).records
        found |= {str(row["artifact_id"]) for table, row in records if table == "artifacts"}
    return found


def check(store: Path, expected: Rows, committed: set[str]) -> tuple[int, int]:
    """The store equals the undisturbed one, and no committed artifact was computed again."""
    if rows(store) != expected:
        raise SystemExit(f"{store}: artifacts differ from the undisturbed night's")
    with duckdb.connect(str(store), read_only=True) as db:
        last = db.execute("select run_id from runs order by started_at desc limit 1").fetchone()
        again = db.execute(
            "select artifact_id from artifacts where run_id = ? and reused_from is null", last
        ).fetchall()
        twice = {row[0] for row in again} & committed
        if twice:
            raise SystemExit(f"{len(twice)} committed artifacts were computed again")
        bad = db.execute(
            """select run_id from runs
               where num_items <> num_done + num_failed + num_reused + num_not_run
               or num_items <> (select count(*) from run_items i where i.run_id = runs.run_id)"""
        ).fetchall()
        doubled = db.execute(
            """select count(*) from (select run_id, job, item_id, variant from run_items
               group by all having count(*) > 1)"""
        ).fetchone()
        counts = db.execute("select num_reused, num_done from runs where run_id = ?", last)
        reused, done = counts.fetchone() or (0, 0)
    if bad or (doubled and doubled[0]):
        raise SystemExit(f"{store}: counts do not add up ({bad}, {doubled})")
    return int(reused), int(done)


def one_kill(
    folder: Path, args: argparse.Namespace, moment: float, parent_only: bool, expected
) -> Kill:  # type: ignore[no-untyped-def]
    store = folder / "artifacts.duckdb"
    cmd = command(args.manifest, store, args.limit)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(cmd, start_new_session=True, stdout=log, stderr=log)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        kill(process, parent_only=parent_only)
    committed = committed_artifact_ids(store)
    seconds = night(args.manifest, store, args.limit)
    reused, done = check(store, expected, committed)
    if len(committed) > reused + done:
        raise SystemExit(f"{len(committed)} artifacts were committed, {reused + done} are there")
    return Kill(round(moment, 2), parent_only, len(committed), reused, done, round(seconds, 1))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--kills", type=int, default=20)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--short", action="store_true", help="only the first rows of each job")
    ap.add_argument("--manifest", type=Path, default=data_path("sample_data") / "manifest.yaml")
    ap.add_argument("--out", type=Path, help="write the JSON report here as well")
    args = ap.parse_args()
    args.limit = 8 if args.short else None
    rng = random.Random(args.seed)
    work = Path(tempfile.mkdtemp(prefix="thothy-faults-"))
    try:
        undisturbed = night(args.manifest, work / "expected.duckdb", args.limit)
        expected = rows(work / "expected.duckdb")
        kills = []
        for number in range(args.kills):
            folder = work / str(number)
            folder.mkdir()
            moment = rng.uniform(0.1, undisturbed)
            kills.append(one_kill(folder, args, moment, number % 2 == 0, expected))
            print(f"kill {number + 1}/{args.kills}: {kills[-1]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report = {"undisturbed_s": round(undisturbed, 1), "artifacts": len(expected), "seed": args.seed}
    report |= {"kills": [asdict(kill) for kill in kills], "lost": 0, "twice": 0}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
