"""A pytest plugin: a line of JSON for each test that has ended, so that what is cut off is known.

Run: THOTHY_GPU_LOG=FILE python -m pytest -p gpu_log
"""

import json
import os
from typing import Any

_TEXT = 600  # characters kept of a failure: its end says what was wrong


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, report.outcome, _text_of(report))


def pytest_collectreport(report: Any) -> None:
    if report.outcome != "passed":
        _write(report.nodeid, report.outcome, _text_of(report))


def _text_of(report: Any) -> str:
    if report.outcome == "skipped":
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longreprtext)[-_TEXT:] if report.outcome == "failed" else ""


def _write(test: str, outcome: str, text: str) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # it reports to the process that writes
        return
    line = json.dumps({"test": test, "outcome": outcome, "text": text})
    with open(os.environ["THOTHY_GPU_LOG"], "a", encoding="utf-8") as log:
        log.write(line + "\n")
