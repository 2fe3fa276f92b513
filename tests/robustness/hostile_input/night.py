"""Ten thousand hostile rows through every kind, and every look at what they left.

    python tests/robustness/hostile_input/night.py --rows 10000
    python tests/robustness/hostile_input/night.py --rows 2000 --seed 7 --keep /tmp/hostile

Three nights: a manifest of all built-in kinds over all rows, on a terminal; a Parquet job manifest
with the rows' own kinds and params, in a log; the first one again in a store of its own, with a
model that answers with hostile texts. A property that does not hold ends it. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hostile_checks import check_nothing_was_carried_out
from hostile_commands import Said, line, on_terminal
from hostile_files import HostileFolder, write_folder
from hostile_night import check_morning, check_plan, check_run, run_with_hostile_engine
from hostile_rows import HostileRow, hostile_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from watched import MEMORY_IS, run_watched  # noqa: E402


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--rows", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=Path, help="a new folder that is not deleted")
    given = words.parse_args()
    base = given.keep or Path(tempfile.mkdtemp(prefix="hostile-"))
    base.mkdir(parents=True, exist_ok=True)
    try:
        found = _nights(base, hostile_rows(given.rows, given.seed))
    finally:
        if given.keep is None:
            shutil.rmtree(base)
    for name, value in found.items():
        print(f"{name:<24}{value}")
    print(json.dumps(found))


def _nights(base: Path, rows: list[HostileRow]) -> dict[str, Any]:
    """Figures of all nights."""
    folders = [_folder(base / name, rows) for name in ("tame-model", "hostile-model")]
    found: dict[str, Any] = {"rows": len(rows), "memory_is": MEMORY_IS}
    found["categories"] = Counter(row.category for row in rows)
    found |= _tame(folders[0], base)
    start = time.monotonic()
    _, summary = run_with_hostile_engine(folders[1])
    found["hostile_model_s"] = round(time.monotonic() - start, 1)
    found["hostile_model"] = _looked_at(folders[1], base)
    found["artifacts"] = summary["num_done"]
    for folder in folders:
        own = {folder.store.name, f"{folder.store.name}.journal"}
        own |= {folder.manifest.name, folder.job_manifest.name, folder.rows_file.name}
        check_nothing_was_carried_out(folder.path, own)
    return found


def _tame(folder: HostileFolder, base: Path) -> dict[str, Any]:
    model = ("--model", "builtin:fake", "--store", folder.store)
    start = time.monotonic()
    check_plan(folder.manifest)
    check_plan(folder.job_manifest, *model)
    planned_s = time.monotonic() - start
    drawn = on_terminal(folder.path, "run", folder.manifest)
    check_run(drawn, drawn=True)
    again = _watched("run", folder.manifest, "--force")
    jobs = _watched("run", folder.job_manifest, *model)
    for said in (again, jobs):
        check_run(said)
    return {
        "plans_s": round(planned_s, 1),
        "on_terminal": _figures(drawn),
        "in_log_with_force": _figures(again),
        "job_manifest": _figures(jobs),
        "tame_model": _looked_at(folder, base),
    }


def _looked_at(folder: HostileFolder, base: Path) -> dict[str, Any]:
    start = time.monotonic()
    counts = list(check_morning(folder.store, base).values())
    return {"runs": counts, "looks_s": round(time.monotonic() - start, 1)}


def _folder(path: Path, rows: list[HostileRow]) -> HostileFolder:
    path.mkdir()
    return write_folder(path, rows)


def _figures(said: Said) -> dict[str, float]:
    figures = {"exit_code": said.code, "seconds": round(said.seconds, 1)}
    return figures | ({"peak_mib": round(said.peak_mib)} if said.peak_mib else {})


def _watched(*words: object) -> Said:
    """A command in a log, and the memory that all its processes held at once."""
    ran = run_watched(line(words), os.environ)
    assert ran.code is not None
    return Said(ran.code, ran.output, ran.errors, ran.wall_s, ran.peak_bytes / 2**20)


if __name__ == "__main__":
    main()
