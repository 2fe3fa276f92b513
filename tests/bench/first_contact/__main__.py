"""Checks a CUDA device within minutes. `make gpu-first-contact` runs it.

Run: PYTHONPATH=... python -m first_contact [SECTION ...] [--out FILE]

A line for each check: PASS or FAIL, seconds, what was seen. The last line is one JSON document.
Exits with 1 where anything failed.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from provenance import short_commit

from first_contact.runner import PHASES, run_phases


def main() -> None:
    names = [name for phase in PHASES for name in phase]
    parser = argparse.ArgumentParser(prog="first_contact", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    parser.add_argument("--limit-s", type=float, default=240, help="seconds of a section at most")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds of all at most")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(names):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = options.sections or names
    phases = [[name for name in phase if name in chosen] for phase in PHASES]
    began = time.monotonic()
    results = run_phases(phases, limit_s=options.limit_s, budget_s=options.budget_s)
    failed = [result["check"] for result in results if result["outcome"] == "FAIL"]
    document = {
        "benchmark": "first-contact",
        "dry_run": os.environ.get("THOTHY_GPU_DRY_RUN") == "1",
        "commit": short_commit(),
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
        "checks": results,
    }
    line = json.dumps(document)
    if options.out is not None:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
