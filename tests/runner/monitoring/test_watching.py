"""What others see of a night without opening the database: event log and Prometheus file."""

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


def events(night: Any) -> list[dict[str, Any]]:
    path = Path(f"{night.store}.journal") / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_night_is_told_in_lines(raw_night: Any) -> None:
    summary = raw_night.run()
    told = events(raw_night)
    assert [each["event"] for each in told] == ["run_started", *["state"] * (len(told) - 1)]
    assert {each["run_id"] for each in told} == {summary.run_id}
    states = [each["state"] for each in told[1:]]
    assert [states[0], states[1], states[-1]] == ["preparing", "loading", "finished"]
    assert told[-1]["exit_code"] == 0
    assert told[-1]["num_done"] == 12
    raw_night.run()
    assert len({each["run_id"] for each in events(raw_night)}) == 2, "runs follow one another"


def test_deaths_of_the_engine_are_among_them(night: Any, tmp_path: Path) -> None:
    night.rows("rows.parquet", id=list(range(12)), prompt=[f"prompt {i}" for i in range(12)])
    knobs = f"fail=kill&fail_at_step=3&fail_once={tmp_path / 'once'}"
    night.jobs("name: j, kind: raw, input: rows.parquet", model=f"builtin:fake?{knobs}")
    assert night.run(start_engine=start_supervised).exit_code == 0
    (death,) = [each for each in events(night) if each["event"] == "engine_died"]
    assert "SIGKILL" in death["message"]
    assert death["num_requests"] == 12


def test_the_log_is_put_aside_when_it_is_long(
    raw_night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_night.run()
    monkeypatch.setattr(event_log, "_MOST_BYTES", 10)
    raw_night.run()
    folder = Path(f"{raw_night.store}.journal")
    first = (folder / "events.1.jsonl").read_text().splitlines()
    assert json.loads(first[0])["event"] == "run_started"
    assert events(raw_night)[0]["event"] == "run_started"


def test_a_log_that_cannot_be_written_stops_nothing(raw_night: Any) -> None:
    folder = Path(f"{raw_night.store}.journal")
    (folder / "events.jsonl").mkdir(parents=True)
    assert raw_night.run().exit_code == 0


def with_metrics(night: Any, name: str = "night.prom") -> Path:
    text = night.manifest.read_text()
    night.manifest.write_text(f"{text}run: {{metrics_file: {name}}}\n")
    return Path(night.folder / name)


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


def test_a_run_leaves_its_metrics(raw_night: Any) -> None:
    path = with_metrics(raw_night)
    began = time.time()
    summary = raw_night.run()
    text = path.read_text()
    found = samples(text)
    labels = f"manifest={raw_night.manifest},run_id={summary.run_id},state=finished"
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


def test_failures_and_restarts_are_counted(night: Any, tmp_path: Path) -> None:
    night.rows("rows.parquet", id=list(range(13)), prompt=[*map(str, range(12)), None])
    knobs = f"fail=kill&fail_at_step=3&fail_once={tmp_path / 'once'}"
    night.jobs("name: j, kind: raw, input: rows.parquet", model=f"builtin:fake?{knobs}")
    path = with_metrics(night)
    assert night.run(start_engine=start_supervised).exit_code == 1
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


def test_a_place_that_cannot_be_written_stops_nothing(raw_night: Any) -> None:
    with_metrics(raw_night, "no/such/folder/night.prom")
    assert raw_night.run().exit_code == 0


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
def test_only_a_file_that_is_meant_for_it_is_replaced(raw_night: Any, name: str) -> None:
    with_metrics(raw_night, name)
    with pytest.raises(ManifestError, match="metrics_file"):
        raw_night.run()


def test_a_folder_of_that_name_stays(raw_night: Any) -> None:
    with_metrics(raw_night).mkdir()
    assert raw_night.run().exit_code == 0
    assert [each["event"] for each in events(raw_night)].count("metrics_not_written") == 1
