"""The command line from outside: exit codes, one JSON document, messages without tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thothy_batch", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=900,
        **more,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with one bad row, run once."""
    folder = tmp_path_factory.mktemp("folder")
    rows = {"id": ["a", "b", "c"], "prompt": ["one", "two", None]}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    (folder / "manifest.yaml").write_text(
        'model: {id: "builtin:fake"}\njobs:\n'
        "  - {name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}}\n"
    )
    done = call("run", folder / "manifest.yaml", "--json")
    assert done.returncode == 1, done.stderr
    run = json.loads(done.stdout)
    assert (run["num_done"], run["num_failed"], run["exit_code"]) == (2, 1, 1)
    return folder


def store(folder: Path) -> Path:
    return folder / "artifacts.duckdb"


@pytest.mark.few(1)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_json_is_one_document_and_progress_goes_to_stderr(folder: Path, command: str) -> None:
    done = call(command, folder / "manifest.yaml", "--json")
    document = json.loads(done.stdout)
    assert document["num_items"] == 3
    assert "checking the manifest" in done.stderr


@pytest.mark.rest
def test_a_second_run_finds_nothing_left_to_do(folder: Path) -> None:
    done = call("run", folder / "manifest.yaml")
    assert done.returncode == 1
    assert "nothing left to do" in done.stdout


@pytest.mark.rest
def test_plan_shows_reused_and_failing_entries(folder: Path) -> None:
    plan = json.loads(call("plan", folder / "manifest.yaml", "--json").stdout)
    assert plan["num_already_done"] == 2
    assert plan["num_to_compute"] == 0
    assert plan["jobs"][0]["failed"] == {"invalid_input": 1}
    assert plan["first_prompt"] == "one"
    text = call("plan", folder / "manifest.yaml")
    assert text.returncode == 1
    assert "2 reused" in text.stdout


@pytest.mark.rest
def test_plan_writes_nothing(folder: Path, tmp_path: Path) -> None:
    done = call("plan", folder / "manifest.yaml", "--store", tmp_path / "new.duckdb")
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.rest
def test_status_and_report_show_the_last_run(folder: Path) -> None:
    status = json.loads(call("status", store(folder), "--json").stdout)
    assert status["state"] == "idle"
    assert status["last_run"]["num_failed"] == 1
    assert "1 failed" in call("status", cwd=folder).stdout
    report = call("report", store(folder))
    assert report.returncode == 0
    assert "invalid_input" in report.stdout
    assert json.loads(call("report", store(folder), "--json").stdout)["run"]["num_failed"] == 1


@pytest.mark.rest
def test_report_writes_a_page(folder: Path, tmp_path: Path) -> None:
    done = call("report", store(folder), "--html", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.rest
@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_export_chooses_the_format_by_extension(folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"all.{ending}"
    assert call("export", store(folder), "-o", out).returncode == 0
    assert out.stat().st_size > 0


def test_export_to_an_unknown_format_is_bad_usage(folder: Path, tmp_path: Path) -> None:
    done = call("export", store(folder), "-o", tmp_path / "all.xml")
    assert done.returncode == 2
    assert "parquet | jsonl | csv" in done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "nothing.yaml"], "nothing.yaml"),
        (["run", "{manifest}", "--if-locked", "perhaps"], "wait=30m"),
        (["run", "{manifest}", "--time-budget", "soon"], "--time-budget soon"),
        (["run", "{manifest}", "--deadline", "noon"], "--deadline"),
        (["run", "{manifest}", "--device", "tpu"], "tpu"),
        (["run", "{manifest}", "--limit", "0"], "--limit 0"),
        (["run", "{manifest}", "--job", "jj"], "jj"),
        (["run", "{manifest}", "--model", "/no/such/folder"], "/no/such/folder"),
        (["run"], "MANIFEST"),
        (["walk"], "walk"),
    ],
)
def test_bad_usage_is_exit_code_2_with_a_sentence(
    folder: Path, args: list[str], words: str
) -> None:
    manifest = folder / "manifest.yaml"
    done = call(*(arg.format(manifest=manifest) for arg in args))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.rest
def test_a_bad_manifest_prints_one_json_document_too(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("jobs:\n  - {name: j, kinds: raw, input: x.parquet}\n")
    done = call("run", tmp_path / "m.yaml", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == 2
    assert error["problems"][0]["line"] == 2


@pytest.mark.rest
def test_a_missing_store_is_exit_code_5(tmp_path: Path) -> None:
    for command in ("status", "report"):
        done = call(command, tmp_path / "none.duckdb")
        assert done.returncode == 5
        assert "there is no store" in done.stderr


@pytest.mark.rest
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "THOTHY_DEBUG": "1"}
    assert "Traceback" in call("report", tmp_path / "none.duckdb", env=env).stderr


@pytest.mark.rest
def test_help_and_status_do_not_import_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from thothy_batch.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for args in (["--help"], ["status", str(store(folder))], ["plan", "manifest.yaml"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 0, done.stderr


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys\n"
        "from thothy_batch.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'duckdb', 'jinja2', 'numpy', 'pyarrow', 'pydantic', 'rich', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_and_option_has_help() -> None:
    import typer

    from thothy_batch.cli.main import app

    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"run", "plan", "status", "report", "export", "doctor", "init"} <= set(commands)
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.rest
def test_init_creates_a_manifest_that_plans_and_overwrites_nothing(tmp_path: Path) -> None:
    created = call("init", tmp_path / "new")
    assert created.returncode == 0, created.stderr
    assert "thothy-batch run" in created.stdout
    assert call("plan", tmp_path / "new" / "manifest.yaml").returncode == 0
    again = call("init", tmp_path / "new")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.rest
def test_doctor_measures_this_machine(tmp_path: Path) -> None:
    done = call("doctor", "--json", env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["gflops"]["float32"] > 0
    assert found["bandwidth_gb_s"] > 0
    assert "cpu" in found["impls"]
