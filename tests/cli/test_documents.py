"""`--json` prints documents with just the keys and types of their schemas, in every state."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from document_schemas import DOCUMENTS, check_document, files, schema
from jsonschema import Draft202012Validator, ValidationError

from thothy_batch.cli.main import main
from thothy_batch.store.files import status_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two jobs, one with a bad row."""
    rows = {"id": ["a", "b", "c"], "prompt": ["one", "two", None]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    write_manifest(tmp_path, "builtin:fake")
    return tmp_path


def write_manifest(folder: Path, model: str, more: str = "") -> None:
    (folder / "manifest.yaml").write_text(
        f'model: {{id: "{model}"}}\n{more}\njobs:\n'
        "  - {name: 商品, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}}\n"
        "  - {name: k, kind: raw, input: rows.parquet, sampling: {max_tokens: 9}}\n"
    )


def document(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    """The document of a command, in this process; checked against its schema."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, args), "--json"])
    found = json.loads(capsys.readouterr().out)
    check_document("error" if list(found) == ["error"] else str(args[0]), found)
    return {"exit_code": end.value.code, **found}


def test_the_files_of_the_schemas_are_up_to_date() -> None:
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, "run `make docs`"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_one_and_refuses_what_it_does_not_know(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    with pytest.raises(ValidationError):
        Draft202012Validator(schema(name)).validate({"unknown": 1})


def test_plan_run_status_and_report_of_a_store(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, store = folder / "manifest.yaml", folder / "artifacts.duckdb"
    plan = document(capsys, "plan", manifest)
    assert (plan["num_to_compute"], plan["num_failed"]) == (4, 2)
    run = document(capsys, "run", manifest)
    assert (run["exit_code"], run["num_done"]) == (1, 4)
    assert document(capsys, "run", manifest, "--job", "k")["num_reused"] == 2
    assert document(capsys, "plan", manifest)["num_already_done"] == 4
    assert document(capsys, "status", store)["last_run"]["num_reused"] == 2
    report = document(capsys, "report", store, "--run", run["run_id"])
    assert report["failures"][0]["num"] == 2
    assert len(document(capsys, "report", store)["nights"]) == 2


@pytest.mark.rest
def test_a_run_that_is_stopped_or_fails_and_the_report_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, store = folder / "manifest.yaml", folder / "artifacts.duckdb"
    stopped = document(capsys, "run", manifest, "--time-budget", "0.000001s")
    assert (stopped["exit_code"], stopped["status"]) == (4, "stopped")
    write_manifest(folder, "builtin:fake?fail=error&fail_at_step=3")
    failed = document(capsys, "run", manifest)
    assert (failed["exit_code"], failed["status"]) == (5, "failed")
    assert failed["error"]["type"] == "EngineError"
    assert document(capsys, "report", store)["run"]["status"] == "failed"
    assert document(capsys, "status", store)["last_run"]["status"] == "failed"


@pytest.mark.rest
def test_the_status_and_the_report_of_a_run_that_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(folder, "builtin:fake?step_ms=300")
    store = folder / "artifacts.duckdb"
    with subprocess.Popen(
        [sys.executable, "-m", "thothy_batch", "run", str(folder / "manifest.yaml"), "-q"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        states = set()
        while process.poll() is None:
            time.sleep(0.2)
            if not status_path(store).exists():
                continue
            found = document(capsys, "status", store)
            states.add(found["state"] + ":" + ((found.get("progress") or {}).get("state") or ""))
    assert "running:running" in states, states
    assert document(capsys, "status", store)["state"] == "idle"


@pytest.mark.rest
def test_a_store_held_open_by_another_program_and_one_without_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thothy_batch.store.queries.read._RETRY_S", 0.1)
    manifest, store = folder / "manifest.yaml", folder / "artifacts.duckdb"
    document(capsys, "run", manifest)
    hold = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert document(capsys, "status", store)["last_run"]["state"] == "finished"
        process.communicate(b"\n")
    with duckdb.connect(str(store)) as connection:
        connection.execute("DELETE FROM runs")
    assert document(capsys, "status", store)["last_run"] is None


def test_a_plan_with_a_refused_row_a_deadline_and_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"id": ["a", "b"], "prompt": ["one " * 300, "two"]}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    more = "run: {time_budget: 5h}\nengine: {kv_memory: 16KiB}"
    write_manifest(folder, "builtin:fake", more)
    plan = document(capsys, "plan", folder / "manifest.yaml")
    assert plan["estimate"]["time_left_s"] is not None
    assert [row["item_id"] for row in plan["refused"]] == ["a", "a"]


@pytest.mark.parametrize(
    "args",
    [
        ["run", "none.yaml"],
        ["plan", "none.yaml"],
        ["report", "none.duckdb"],
        ["bench"],
        ["doctor", "--dtype", "float32"],
    ],
)
def test_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert document(capsys, *args)["error"]["exit_code"] in (2, 5)


@pytest.mark.parametrize("requests", ["2", "1"])
def test_bench(capsys: pytest.CaptureFixture[str], requests: str) -> None:
    words = ("--model", "builtin:fake", "--requests", requests, "--lengths")
    assert document(capsys, "bench", *words, "20/4")["num_done"] == int(requests)
    assert document(capsys, "bench", *words, "5000/9")["num_refused"] == int(requests)
