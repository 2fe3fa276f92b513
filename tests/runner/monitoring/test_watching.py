"""A run as others watch it without opening the database: event log and Prometheus file."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from thothy_batch.engine.start import start_supervised
from thothy_batch.errors import ManifestError
from thothy_batch.runner.monitoring import event_log
from thothy_batch.runner.monitoring.run_metrics import RunMetrics


def events(project: Any) -> list[dict[str, Any]]:
    path = Path(f"{project.store}.journal") / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_event_log_has_the_run_line_by_line(raw_project: Any) -> None:
    summary = raw_project.run()
    logged = events(raw_project)
    assert [each["event"] for each in logged] == ["run_started", *["state"] * (len(logged) - 1)]
    assert {each["run_id"] for each in logged} == {summary.run_id}
    states = [each["state"] for each in logged[1:]]
    assert [states[0], states[1], states[-1]] == ["preparing", "loading", "finished"]
    assert logged[-1]["exit_code"] == 0
    assert logged[-1]["num_done"] == 12
    raw_project.run()
    assert len({each["run_id"] for each in events(raw_project)}) == 2, "runs follow one another"


@pytest.mark.rest
def test_deaths_of_the_engine_are_among_them(project: Any, tmp_path: Path) -> None:
    project.rows("rows.parquet", id=list(range(12)), prompt=[f"prompt {i}" for i in range(12)])
    knobs = f"fail=kill&fail_at_step=3&fail_once={tmp_path / 'once'}"
    project.jobs("name: j, kind: raw, input: rows.parquet", model=f"builtin:fake?{knobs}")
    assert project.run(start_engine=start_supervised).exit_code == 0
    (death,) = [each for each in events(project) if each["event"] == "engine_died"]
    assert "SIGKILL" in death["message"]
    assert death["num_requests"] == 12


@pytest.mark.rest
def test_the_log_is_put_aside_when_it_is_long(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_project.run()
    monkeypatch.setattr(event_log, "_MOST_BYTES", 10)
    raw_project.run()
    folder = Path(f"{raw_project.store}.journal")
    first = (folder / "events.1.jsonl").read_text().splitlines()
    assert json.loads(first[0])["event"] == "run_started"
    assert events(raw_project)[0]["event"] == "run_started"


def test_a_log_that_cannot_be_written_stops_nothing(raw_project: Any) -> None:
    folder = Path(f"{raw_project.store}.journal")
    (folder / "events.jsonl").mkdir(parents=True)
    assert raw_project.run().exit_code == 0


def with_metrics(project: Any, name: str = "night.prom") -> Path:
    text = project.manifest.read_text()
    project.manifest.write_text(f"{text}run: {{metrics_file: {name}}}\n")
    return Path(project.folder / name)


def samples(text: str) -> dict[str, float]:
    """Sample -> value, as the client library reads them; the names begin behind the prefix."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.name.startswith("thothy_batch_")
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("thothy_batch_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


def test_a_run_leaves_its_metrics(raw_project: Any) -> None:
    path = with_metrics(raw_project)
    began = time.time()
    summary = raw_project.run()
    text = path.read_text()
    found = samples(text)
    labels = f"manifest={raw_project.manifest},run_id={summary.run_id},state=finished"
    assert found[f"run_info{{{labels}}}"] == 1
    assert (found["entries{job=j,status=done}"], found["entries{job=j,status=open}"]) == (12, 0)
    assert found["exit_code"] == 0
    assert found["output_tokens_total"] == summary.output_tokens
    assert found["prompt_tokens_total"] > 0
    assert found["engine_restarts_total"] == 0
    assert found["queue_delay_seconds_count"] == found["queue_delay_seconds_bucket{le=+Inf}"] == 12
    assert began - 1 < found["last_success_timestamp_seconds"] < time.time() + 1
    kinds = dict(re.findall(r"^# TYPE thothy_batch_(\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in kinds.items():
        assert kind == ("counter" if name.endswith("_total") else "gauge") or kind == "histogram"
    assert text.count("# TYPE thothy_batch_entries gauge") == 1


def test_failures_and_restarts_are_counted(project: Any, tmp_path: Path) -> None:
    project.rows("rows.parquet", id=list(range(13)), prompt=[*map(str, range(12)), None])
    knobs = f"fail=kill&fail_at_step=3&fail_once={tmp_path / 'once'}"
    project.jobs("name: j, kind: raw, input: rows.parquet", model=f"builtin:fake?{knobs}")
    path = with_metrics(project)
    assert project.run(start_engine=start_supervised).exit_code == 1
    found = samples(path.read_text())
    assert found["engine_restarts_total"] == 1
    assert found["failures_total{code=invalid_input}"] == 1
    assert found["failures_total{code=engine_error}"] == 0
    assert found["flagged_total{job=j}"] == 0


def test_the_last_success_outlives_a_run_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    assert RunMetrics(path).last_success is None
    metrics = RunMetrics(path)
    assert metrics.write({"state": "finished", "exit_code": 1})
    first = samples(path.read_text())["last_success_timestamp_seconds"]
    metrics = RunMetrics(path)
    for status in ({"state": "preparing"}, {"state": "finished", "exit_code": 4}):
        assert metrics.write(status)
        assert samples(path.read_text())["last_success_timestamp_seconds"] == first


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"# HELP", b"a{b=", b"x 1 2 3 4\n\0"])
def test_a_file_of_another_kind_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "night.prom"
    path.write_bytes(content)
    metrics = RunMetrics(path)
    assert metrics.last_success is None
    assert metrics.write({"state": "preparing"})
    assert samples(path.read_text())["output_tokens_total"] == 0


def test_a_place_that_cannot_be_written_stops_nothing(raw_project: Any) -> None:
    with_metrics(raw_project, "no/such/folder/night.prom")
    assert raw_project.run().exit_code == 0


def test_names_are_escaped(tmp_path: Path) -> None:
    counts = ("num_items", "num_done", "num_reused", "num_failed", "num_not_run", "num_flagged")
    job = {"name": 'a "b"\\c\nd', **dict.fromkeys(counts, 0)}
    metrics = RunMetrics(tmp_path / "night.prom")
    assert metrics.write({"jobs": [job], "state": "running", "manifest": "not-utf-8-\udcff"})
    text = (tmp_path / "night.prom").read_text()
    assert 'job="a \\"b\\"\\\\c\\nd"' in text
    assert 'manifest="not-utf-8-?"' in text
    assert 'entries{job=a "b"\\c\nd,status=done}' in samples(text)


@pytest.mark.parametrize("name", ["artifacts.duckdb", "m.yaml", "[a.prom]"])
def test_only_a_file_that_is_meant_for_it_is_replaced(raw_project: Any, name: str) -> None:
    with_metrics(raw_project, name)
    with pytest.raises(ManifestError, match="metrics_file"):
        raw_project.run()


def test_a_folder_of_that_name_stays(raw_project: Any) -> None:
    with_metrics(raw_project).mkdir()
    assert raw_project.run().exit_code == 0
    assert [each["event"] for each in events(raw_project)].count("metrics_not_written") == 1
