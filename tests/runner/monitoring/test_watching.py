"""What others see of a night without opening the database: event log and Prometheus file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.engine.start import start_supervised
from thothy_batch.errors import ManifestError
from thothy_batch.runner.monitoring import event_log
from thothy_batch.runner.monitoring.prometheus import metrics_text

LINE = re.compile(r'^thothy_batch_[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+]+$')


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


def test_figures_for_prometheus(raw_night: Any) -> None:
    text = raw_night.manifest.read_text()
    raw_night.manifest.write_text(f"{text}run: {{metrics_file: night.prom}}\n")
    summary = raw_night.run()
    lines = (raw_night.folder / "night.prom").read_text().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(LINE.match(line) for line in samples), samples
    assert f'thothy_batch_run_info{{run_id="{summary.run_id}",' in "\n".join(samples)
    assert 'thothy_batch_entries{job="j",status="done"} 12' in samples
    assert 'thothy_batch_entries{job="j",status="open"} 0' in samples
    assert "thothy_batch_exit_code 0" in samples
    names = [line.split("{")[0].split(" ")[0] for line in samples]
    for name in set(names):
        assert lines.count(f"# TYPE {name} gauge") == 1, "announced once, before its samples"
        assert lines.index(f"# TYPE {name} gauge") < min(
            i for i, line in enumerate(lines) if line.startswith(name)
        )


def test_a_place_that_cannot_be_written_stops_nothing(raw_night: Any) -> None:
    text = raw_night.manifest.read_text()
    raw_night.manifest.write_text(f"{text}run: {{metrics_file: no/such/folder/night.prom}}\n")
    assert raw_night.run().exit_code == 0


def test_names_are_escaped() -> None:
    job = dict.fromkeys(("num_items", "num_done", "num_reused", "num_failed", "num_not_run"), 0)
    text = metrics_text({"jobs": [{"name": 'a "b"\\c\nd', **job}], "state": "running"})
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(LINE.match(line) for line in samples)
    assert 'job="a \\"b\\"\\\\c\\nd"' in text


@pytest.mark.parametrize("name", ["artifacts.duckdb", "m.yaml", "[a.prom]"])
def test_only_a_file_that_is_meant_for_it_is_replaced(raw_night: Any, name: str) -> None:
    text = raw_night.manifest.read_text()
    raw_night.manifest.write_text(f"{text}run: {{metrics_file: {name}}}\n")
    with pytest.raises(ManifestError, match="metrics_file"):
        raw_night.run()


def test_a_folder_of_that_name_stays(raw_night: Any) -> None:
    text = raw_night.manifest.read_text()
    raw_night.manifest.write_text(f"{text}run: {{metrics_file: night.prom}}\n")
    (raw_night.folder / "night.prom").mkdir()
    assert raw_night.run().exit_code == 0
    assert [each["event"] for each in events(raw_night)].count("metrics_not_written") == 1
