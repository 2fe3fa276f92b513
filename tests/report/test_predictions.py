"""Predictions, planned tokens and the roofline in reports, and when reports omit them."""

from typing import Any

import pytest
from report_text import render_text

from thothy_batch.report.html import render_html

KNOWN = {
    "predicted_s": 101.0,
    "roofline_fraction": 0.42,
    "planned_prompt_tokens": 1000,
    "computed_prompt_tokens": 1050,
}


def _data(jobs: Any = (), nights: Any = (), **more: object) -> dict[str, Any]:
    names = ("name", "stop_reason", "finished_at", "started_at", "host", "model", "engine")
    numbers = ("num_items", "num_done", "num_failed", "num_reused", "prompt_tokens", "load_s")
    rates = ("output_tokens_per_s", "artifacts_per_hour", "wall_s", "versions")
    tokens = ("cached_prompt_tokens", "output_tokens", "wasted_tokens")
    run = dict.fromkeys((*names, *numbers, *rates, *tokens))
    ended = {"run_id": "r1", "status": "completed", "num_not_run": 0, "engine_s": 97.0}
    lists: dict[str, Any] = {"failures": [], "flags": [], "steps": [], "events": []}
    run = {**run, **ended, **more}
    return {"store": "s", "run": run, "jobs": list(jobs), "nights": list(nights), **lists}


def _night(**more: object) -> dict[str, Any]:
    changes = ("output_tokens_per_s_change", "artifacts_per_hour_change", "engine_s_change")
    return {**_data()["run"], **dict.fromkeys(changes), "num_compared": 1, **more}


def test_both_reports_show_prediction_plan_and_roofline() -> None:
    data = _data(**KNOWN)
    for part in (
        "  predicted: 1 min 41 s of engine time, took 1 min 37 s: 4 % off",
        "  planned: 1,000 prompt tokens to compute, computed 1,050 (+5.0 %)",
        "  roofline: 42 % of what this device can do at most",
    ):
        assert part in render_text(data).splitlines(), part
    page = render_html(data)
    for part in ("took 1 min 37 s: 4 % off", "computed 1,050 (+5.0 %)", "<dd>42 %</dd>"):
        assert part in page, part


@pytest.mark.parametrize("more", [{}, dict.fromkeys(KNOWN)], ids=["old-store", "not-known"])
def test_unknown_figures_are_not_shown(more: dict[str, object]) -> None:
    data = _data(jobs=[{"job": "j", "kind": "raw"}], nights=[_night(), _night()], **more)
    for shown in (render_text(data), render_html(data)):
        for word in ("predicted", "Predicted", "planned", "Planned", "roofline", "the device can"):
            assert word not in shown, word


def test_a_plan_that_was_met_gets_no_line() -> None:
    data = _data(**{**KNOWN, "computed_prompt_tokens": 1000})
    assert "planned" not in render_text(data)
    assert "Planned" not in render_html(data)


@pytest.mark.parametrize(
    "ended",
    [
        {"status": "stopped", "num_not_run": 5},
        {"status": "running", "num_not_run": None, "engine_s": None},
        {"status": "completed", "num_not_run": 3},  # a job was stopped
        {"status": "failed", "num_not_run": 0},
    ],
    ids=lambda ended: f"{ended['status']}-{ended['num_not_run']}",
)
def test_an_incomplete_run_is_not_compared_with_its_plan(ended: dict[str, Any]) -> None:
    text = render_text(_data(**KNOWN, **ended))
    assert "predicted: 1 min 41 s of engine time for all of it\n" in text
    assert "% off" not in text
    assert "planned:" not in text


def test_zero_engine_time_divides_nothing() -> None:
    for zero in ({"engine_s": 0.0}, {"engine_s": None}):
        assert "took" in render_text(_data(predicted_s=1.0, **zero))
    shown = render_text(_data(planned_prompt_tokens=0, computed_prompt_tokens=4))
    assert "planned: 0 prompt tokens to compute, computed 4\n" in shown


def test_the_table_of_jobs_gets_times_where_one_of_them_is_predicted() -> None:
    jobs = [
        {"job": "j", "kind": "hook", "engine_s": 80.0, "predicted_s": 84.0},
        {"job": "k", "kind": "hook", "engine_s": 3.2},
    ]
    lines = render_text(_data(jobs=jobs), width=200).splitlines()
    (head,) = [line for line in lines if line.lstrip().startswith("job ")]
    assert head.endswith("engine   predicted")
    assert any(line.endswith("1 min 20 s  1 min 24 s") for line in lines)
    assert any(line.endswith("3.20 s           –") for line in lines)
    page = render_html(_data(jobs=jobs))
    assert '<th class="n">predicted</th>' in page
    assert '<td class="n">1 min 24 s</td>' in page


def test_recent_runs_show_the_roofline_where_one_of_them_has_it() -> None:
    data = _data(nights=[_night(roofline_fraction=0.5), _night()])
    lines = render_text(data).splitlines()
    assert any(line.endswith("  roofline") for line in lines)
    assert any(line.endswith("      50 %") for line in lines)
    page = render_html(data)
    assert '<td class="n">50 %</td>' in page
