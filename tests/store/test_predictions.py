"""A plan's predictions stand beside the results, also if the run was killed."""

from typing import Any

import pytest

from thothy_batch.records import EngineTotals
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.queries import outputs
from thothy_batch.store.queries.read import list_runs, past_outputs, report_data
from thothy_batch.store.store import Store

JOBS = [
    {"job": "j", "kind": "summary", "priority": 9, "num_items": 2},
    {"job": "k", "num_items": 1},
]


def _plan(store: Store) -> None:
    store.update_run({"predicted_s": 4.0, "planned_prompt_tokens": 900})
    store.record_predictions({"j": 3.5, "k": 0.5})


def test_a_run_shows_what_was_predicted_beside_what_it_took(harness: Any, rows: Any) -> None:
    with harness.run(jobs=JOBS) as store:
        _plan(store)
        rows.add_done(store, 1)
        ends = {"computed_prompt_tokens": 912, "roofline_fraction": 0.42}
        store.end_run({"status": "completed", "engine_s": 4.2, **ends})
    data = report_data(harness.path)
    run, (first, second) = data["run"], data["jobs"]
    assert (run["predicted_s"], run["engine_s"], run["roofline_fraction"]) == (4.0, 4.2, 0.42)
    assert (run["planned_prompt_tokens"], run["computed_prompt_tokens"]) == (900, 912)
    assert (first["job"], first["predicted_s"], first["num_items"]) == ("j", 3.5, 2)
    assert (second["job"], second["predicted_s"], second["num_items"]) == ("k", 0.5, 1)
    # Predicting says nothing of the rest that is known of a job.
    assert (first["kind"], first["priority"], second["priority"]) == ("summary", 9, 5)
    (shown,) = list_runs(harness.path)
    assert (shown["predicted_s"], shown["roofline_fraction"]) == (4.0, 0.42)
    predicted = harness.query("SELECT job, predicted_s FROM job_throughput ORDER BY job")
    assert predicted == [("j", 3.5), ("k", 0.5)]


def test_a_run_without_a_prediction_has_none(harness: Any, rows: Any) -> None:
    with harness.run(jobs=JOBS) as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed", "engine_s": 4.2})
    run = harness.row("SELECT * FROM runs")
    names = ("predicted_s", "planned_prompt_tokens", "computed_prompt_tokens", "roofline_fraction")
    assert [run[name] for name in names] == [None] * 4
    assert harness.query("SELECT predicted_s FROM job_stats") == [(None,), (None,)]


def test_a_killed_run_keeps_what_was_predicted(harness: Any, rows: Any) -> None:
    """All of it was only in the journal when the process died."""
    store = Store.open(harness.path)
    store.begin_run({"run_id": "r1", "name": "night", "jobs": JOBS})
    _plan(store)
    rows.add_done(store, 1)
    store.record_totals(EngineTotals(engine_s=1.5, prefill_tokens=300, output_tokens=5))
    store._journal.commit()
    assert publish_if_free(harness.path)
    run = harness.row("SELECT * FROM runs")
    assert (run["status"], run["stop_reason"]) == ("failed", "killed")
    assert (run["predicted_s"], run["planned_prompt_tokens"]) == (4.0, 900)
    assert (run["engine_s"], run["computed_prompt_tokens"]) == (1.5, 300)
    assert harness.query("SELECT job, predicted_s FROM job_stats ORDER BY job") == [
        ("j", 3.5),
        ("k", 0.5),
    ]


def test_past_outputs_are_the_newest_of_the_job_and_the_model(
    harness: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_OUTPUTS", 3)
    with harness.run("r1") as store:
        for item in range(5):  # entered out of order; at equal times the later row is newer
            at = 1_700_000_000 + (0, 3, 2, 2, 1)[item]
            rows.add_done(store, item, output_tokens=10 + item, created_at=at, model="tiny")
        rows.add_done(store, "o", output_tokens=99, model="other")
        rows.add_done(store, "k", job="k", output_tokens=7, model="tiny")
        rows.add_done(store, "l", job="l", output_tokens=8, model="tiny")
        rows.add_done(store, "n", job="k", output_tokens=None, model="tiny")
        place = {"artifact_id": "c1", "job": "k", "kind": "summary", "item_id": "c"}
        store.add_copy({**place, "request_key": "k1"}, "a1")
        store.end_run({"status": "completed"})
    with harness.run("r2") as store:
        found = store.past_outputs(["j", "k", "never"], "tiny")
        store.end_run({"status": "completed"})
    assert found == {"j": [12, 13, 11], "k": [7]}
    assert past_outputs(harness.path, iter(["j", "k", "j"]), "tiny") == found
    assert past_outputs(harness.path, [], "tiny") == {}
    assert past_outputs(harness.path, ["j"], "unknown") == {}


def test_a_reader_costs_an_estimate_and_not_the_run(harness: Any, rows: Any) -> None:
    with harness.run("r1") as store:
        rows.add_done(store, 1, model="tiny")
        store.end_run({"status": "completed"})
    with harness.reader(read_only=False), harness.run("r2") as store:
        assert store.past_outputs(["j"], "tiny") == {}
        store.end_run({"status": "completed"})
    assert publish_if_free(harness.path)
