"""Section 1: commands, options, exit codes, and what goes to which stream."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

COMMANDS = ("run", "plan", "status", "report", "export", "bench", "doctor", "init")
RUN_OPTIONS = (
    "--store",
    "--model",
    "--device",
    "--job",
    "--limit",
    "--deadline",
    "--time-budget",
    "--if-locked",
    "--retry-failed",
    "--force",
    "--json",
    "--quiet",
)
TWO_JOBS = """
jobs:
  - {name: one, kind: summary, input: rows.parquet, sampling: {max_tokens: 8}}
  - {name: two, kind: raw, input: rows.parquet, columns: {prompt: text},
     sampling: {max_tokens: 4, ignore_eos: true}}
"""


@pytest.fixture(scope="module")
def night(module_folder: Any) -> Any:
    """Two jobs over texts that a spreadsheet or a browser could execute."""
    module_folder.parquet(
        "rows.parquet",
        {
            "id": ["=1+1", "<script>alert(1)</script>", 'a "quoted", id', "bad"],
            "text": ["One.", "Two & <b>three</b>.", "Four.", None],
        },
    )
    module_folder.manifest(TWO_JOBS)
    module_folder.outcome = module_folder.run()
    return module_folder


def test_help_names_every_command_and_every_option_of_run(folder: Any) -> None:
    text = folder.call("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in text, command
    text = folder.call("run", "--help").stdout
    for option in RUN_OPTIONS:
        assert option in text, option


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "words",
    [
        ["runn"],
        ["run"],
        ["run", "night.yaml", "--frobnicate"],
        ["run", "night.yaml", "--limit", "many"],
        ["run", "night.yaml", "--device", "tpu"],
        ["run", "night.yaml", "--time-budget", "5 hours"],
        ["run", "night.yaml", "--deadline", "late"],
        ["run", "night.yaml", "--if-locked", "sometimes"],
        ["run", "night.yaml", "--job", "onee"],
        ["run", "night.yaml", "--limit", "-1"],
    ],
    ids=lambda words: " ".join(words),
)
def test_bad_usage_exits_2_says_what_and_starts_nothing(folder: Any, words: list[str]) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest(TWO_JOBS)
    outcome = folder.call(*words, cwd=folder.path)
    assert outcome.code == 2
    assert not outcome.stdout
    assert words[-1].removeprefix("--") in outcome.stderr.lower() or words == ["run"]
    assert not folder.store.exists()


def test_run_prints_a_summary_and_logs_plain_lines_to_stderr(night: Any) -> None:
    outcome = night.outcome
    assert outcome.code == 1
    assert "6 done" in outcome.stdout
    assert "2 failed" in outcome.stdout
    assert "\x1b" not in outcome.stdout + outcome.stderr
    assert "\r" not in outcome.stderr


def test_quiet_run_is_quiet_and_its_json_is_one_document(night: Any) -> None:
    quiet = night.run("--quiet")
    assert quiet.code == 1
    assert len(quiet.stderr.splitlines()) <= 1
    outcome = night.run("--json", "--job", "two", "--limit", 2)
    assert outcome.code == 0
    assert outcome.json["num_items"] == outcome.json["num_reused"] == 2
    assert night.sql(
        "select distinct job from run_items where run_id = ?", outcome.json["run_id"]
    ) == [("two",)]


def test_plan_counts_and_names_bad_rows_without_a_store(night: Any) -> None:
    store = night.path / "other.duckdb"
    outcome = night.call("plan", night.path / "night.yaml", "--store", store, "--json")
    assert outcome.code == 1
    assert isinstance(outcome.json, dict)
    text = night.call("plan", night.path / "night.yaml", "--store", store)
    assert text.code == 1
    assert "8 entries" in text.stdout
    assert "invalid_input" in text.stdout
    assert not store.exists()


@pytest.mark.rest
def test_same_program_by_python_m(night: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "thothy_batch", "status", str(night.store)],
        capture_output=True,
        encoding="utf-8",
        cwd=night.cwd,
    )
    assert done.returncode == 0
    assert "last run" in done.stdout


@pytest.mark.few(1)
@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_export_writes_the_finished_artifacts(night: Any, format: str) -> None:
    target = night.path / f"out.{format}"
    outcome = night.call("export", night.store, "--job", "one", "--format", format, "-o", target)
    assert outcome.code == 0
    assert not outcome.stdout
    rows = _read(target, format)
    expected = dict(night.sql("select item_id, text from artifacts where job = 'one'"))
    ids = [row["item_id"] for row in rows]
    if format == "csv":  # a spreadsheet must not compute an id
        assert not any(item.startswith("=") for item in ids)
        ids = [item.lstrip("'") for item in ids]
    assert sorted(ids) == sorted(expected)
    assert sorted(row["text"] for row in rows) == sorted(expected.values())


def _read(path: Path, format: str) -> list[dict[str, Any]]:
    if format == "parquet":
        return pq.read_table(path).to_pylist()
    if format == "jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.rest
def test_export_of_a_run_or_job_that_is_not_there_is_an_error(night: Any) -> None:
    for option in (["--job", "three"], ["--run", "1999"]):
        outcome = night.call("export", night.store, *option, "-o", night.path / "none.csv")
        assert outcome.code in (2, 5)
        assert option[1] in outcome.stderr


def test_html_report_is_one_page_in_which_nothing_of_the_input_runs(night: Any) -> None:
    page = night.path / "page.html"
    assert night.call("report", night.store, "--html", page).code == 0
    html = page.read_text()
    assert "<script>alert" not in html
    assert "<b>three" not in html
    for outside in ("src=", 'href="http', "@import", "url("):
        assert outside not in html


def test_errors_with_json_are_one_document_too(folder: Any) -> None:
    outcome = folder.run("--json")
    assert outcome.code == 2
    assert isinstance(outcome.json, dict)
    assert "night.yaml" in outcome.stderr


def test_thothy_debug_shows_the_traceback(folder: Any) -> None:
    from_environment = {"THOTHY_DEBUG": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        folder.command("run", "nowhere.yaml"),
        capture_output=True,
        encoding="utf-8",
        cwd=folder.cwd,
        env=from_environment,
    )
    assert "Traceback" in done.stderr
    assert done.returncode != 0


@pytest.mark.rest
def test_init_writes_an_example_that_plans(folder: Any) -> None:
    target = folder.path / "example"
    outcome = folder.call("init", target)
    assert outcome.code == 0
    written = {path.suffix for path in target.rglob("*") if path.is_file()}
    assert {".yaml", ".parquet"} <= written
    everything = (
        outcome.stdout
        + outcome.stderr
        + "".join(
            path.read_text()
            for path in target.rglob("*")
            if path.is_file() and path.suffix != ".parquet"
        )
    )
    assert "* * *" in everything
    assert "--if-locked" in everything
    (manifest,) = target.glob("*.yaml")
    assert folder.call("plan", manifest, "--json").code == 0
    again = folder.call("init", target)
    assert again.code != 0, "an existing example is not overwritten"


@pytest.mark.rest
def test_doctor_shows_what_the_machine_can_do(folder: Any) -> None:
    outcome = folder.call("doctor", "--json")
    assert outcome.code == 0
    text = json.dumps(outcome.json).lower()
    for word in ("torch", "device", "bandwidth", "python"):
        assert word in text, word
