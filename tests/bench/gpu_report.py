"""The findings of a part of gpu.sh, as one JSON document and as one line for the reader.

Run: python tests/bench/gpu_report.py PART FOLDER OUT --exit-code 0 --seconds 12 [--dry-run]

FOLDER holds what the part left there: PART*.jsonl of pytest (gpu_log.py), PART*.json of benchmarks.
Skipped tests are named with their reasons: they are not passed. Exits with 1 where nothing was
left.
"""

import argparse
import json
import sys
from pathlib import Path

from provenance import of_device

_CUT_OFF = (124, 137)  # what timeout says of a command that it ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--exit-code", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    logs = sorted(options.folder.glob(f"{options.part}*.jsonl"))
    benchmarks = sorted(options.folder.glob(f"{options.part}*.json"))
    tests = tests_of(logs)
    document = {
        "part": options.part,
        "dry_run": options.dry_run,
        "exit_code": options.exit_code,
        "was_cut_off": options.exit_code in _CUT_OFF,
        "seconds": options.seconds,
        "tests": tests,
        "benchmarks": [json.loads(path.read_text(encoding="utf-8")) for path in benchmarks],
        **of_device(is_dry_run=options.dry_run),
    }
    options.out.write_text(json.dumps(document) + "\n", encoding="utf-8")
    show(options, tests, len(benchmarks))
    sys.exit(not (logs or benchmarks))


def tests_of(logs: list[Path]) -> dict[str, object]:
    """A test may have several lines: one that failed in any is failed."""
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    by_outcome: dict[str, dict[str, str]] = {"passed": {}, "failed": {}, "skipped": {}}
    for case in map(json.loads, lines):
        by_outcome[case["outcome"]][case["test"]] = case["text"]
    failed, skipped = by_outcome["failed"], by_outcome["skipped"]
    return {
        "passed": len(by_outcome["passed"].keys() - failed.keys()),
        "failed": [{"test": test, "text": text} for test, text in failed.items()],
        "skipped": [{"test": test, "reason": reason} for test, reason in skipped.items()],
    }


def show(options: argparse.Namespace, tests: dict[str, object], num_benchmarks: int) -> None:
    failed, skipped = tests["failed"], tests["skipped"]
    for case in failed:
        print(f"FAILED {case['test']}")
    for case in skipped:
        print(f"skipped {case['test']}: {case['reason']}")
    print(
        f"{options.part}: exit code {options.exit_code}"
        f"{' (cut off)' if options.exit_code in _CUT_OFF else ''} after {options.seconds} s; "
        f"{tests['passed']} passed, {len(failed)} failed, {len(skipped)} skipped, "
        f"{num_benchmarks} benchmarks → {options.out}"
    )


if __name__ == "__main__":
    main()
