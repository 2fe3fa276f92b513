"""The entries of a job's rows: what makes two of them the same, and what they are called."""

import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

ARTIFACTS = "select item_id, variant from artifacts order by all"
FAILURES = "select item_id, variant, message from failures order by all"


@pytest.mark.rest
def test_of_equal_ids_the_first_wins_in_all_files_of_a_job(project: Any) -> None:
    project.rows("a.parquet", id=["x", "y", "x"], prompt=["1", "2", "3"])
    project.rows("b.parquet", id=["x", "z"], prompt=["4", "5"])
    project.jobs("name: j, kind: raw, input: '*.parquet', sampling: {max_tokens: 4}")
    run = project.run()
    assert run.counts["num_done"] == 3
    first, second = project.query(FAILURES)
    assert (first[:2], second[:2]) == (("x", "#2"), ("x", "#3"))
    assert first[2] == (
        "a.parquet row 3: duplicate id 'x' within job 'j': the first row with it is used"
    )
    assert second[2].startswith("b.parquet row 1: ")


def translate(project: Any, params: str = "", **columns: Any) -> Any:
    project.rows("rows.parquet", **columns)
    project.jobs(
        f"name: j, kind: translation, input: rows.parquet, {params} sampling: {{max_tokens: 12}}"
    )
    return project.run()


def test_rows_of_one_id_and_different_languages_are_all_due(project: Any) -> None:
    run = translate(project, id=["a", "a", "b"], text=list("xyz"), target_lang=["de", "fr", "de"])
    assert (run.exit_code, run.counts["num_done"]) == (0, 3)
    assert project.query(ARTIFACTS) == [("a", "de"), ("a", "fr"), ("b", "de")]


@pytest.mark.rest
def test_rows_of_one_id_and_one_language_are_duplicates(project: Any) -> None:
    translate(project, id=["a", "a", "a"], text=["1", "2", "3"], target_lang=["de", "de", "de"])
    assert project.query(ARTIFACTS) == [("a", "de")]
    second, third = project.query(FAILURES)
    assert second[:2] == ("a", "de#2")
    assert "duplicate id 'a' and language 'de' within job 'j'" in second[2]
    assert "row 2" in second[2]
    assert third[:2] == ("a", "de#3")


@pytest.mark.rest
def test_languages_of_a_row_and_of_the_params_meet(project: Any) -> None:
    params = "params: {target_langs: [de, fr]},"
    translate(project, params, id=["a", "a"], text=["1", "2"], target_lang=["fr", None])
    assert project.query(ARTIFACTS) == [("a", "de"), ("a", "fr")]
    assert [row[:2] for row in project.query(FAILURES)] == [("a", "fr#2")]


def test_a_group_is_named_by_the_value_and_null_is_no_group(project: Any) -> None:
    weeks = [202601.0, 202601.0, float("nan"), None, 2.0**53 + 2]
    project.rows("rows.parquet", id=list("abcde"), text=list("vwxyz"), week=weeks)
    project.jobs(
        "name: j, kind: report, input: rows.parquet, params: {group_by: week}, "
        "sampling: {max_tokens: 20}"
    )
    project.run()
    assert project.query(ARTIFACTS) == [("202601", "")]
    found = project.query(FAILURES)
    assert [row[0] for row in found] == ["c", "d", "e"]
    assert "week is null" in found[0][2]
    assert "week is null" in found[1][2]
    assert "beyond 2^53" in found[2][2]


@pytest.mark.rest
@pytest.mark.parametrize(
    ("weeks", "group"),
    [
        (pa.array([Decimal("1.50")] * 2), "1.50"),
        (pa.array([True] * 2), "true"),
        (pa.array([datetime.datetime(2026, 1, 5)] * 2, pa.timestamp("s", "Asia/Tokyo")),
         "2026-01-05T00:00:00+00:00"),
    ],
    ids=["decimal", "bool", "time"],
)  # fmt: skip
def test_a_group_has_the_text_that_an_id_would_have(project: Any, weeks: Any, group: str) -> None:
    project.rows("rows.parquet", id=["a", "b"], text=["x", "y"], week=weeks)
    project.jobs(
        "name: j, kind: report, input: rows.parquet, params: {group_by: week}, "
        "sampling: {max_tokens: 20}"
    )
    assert project.run().counts["num_done"] == 1
    assert project.query(ARTIFACTS) == [(group, "")]


@pytest.mark.rest
def test_rows_may_be_grouped_by_their_ids(project: Any) -> None:
    project.rows("rows.parquet", id=[1.0, 2.0], text=["x", "y"])
    project.jobs(
        "name: j, kind: report, input: rows.parquet, params: {group_by: id}, "
        "sampling: {max_tokens: 20}"
    )
    project.run()
    assert project.query(ARTIFACTS) == [("1", ""), ("2", "")]


def test_what_cannot_be_an_id_cannot_be_a_group(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["x"], week=[["w1"]])
    project.jobs("name: j, kind: report, input: rows.parquet, params: {group_by: week}")
    with pytest.raises(Exception, match="column 'week' must be text, a number.* found list"):
        project.run()


@pytest.mark.rest
def test_a_decimal_column_sets_max_tokens(project: Any) -> None:
    lengths = pa.array([Decimal(3), Decimal(5), Decimal(0)], pa.decimal128(9, 0))
    project.rows("rows.parquet", id=list("abc"), prompt=list("abc"), max_tokens=lengths)
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {ignore_eos: true}")
    project.run()
    query = "select item_id, output_tokens from artifacts order by item_id"
    assert project.query(query) == [("a", 3), ("b", 5)]
    assert "max_tokens must be at least 1, found 0" in project.query(FAILURES)[0][2]


@pytest.mark.rest
def test_temperature_and_seed_of_a_row_count_where_columns_names_them(project: Any) -> None:
    rows = {
        "id": list("abcde"),
        "prompt": ["same"] * 5,
        "temperature": pa.array([Decimal("0.5"), None, Decimal(-1), None, None]),
        "lot": [7.0, 8.0, None, 2.5, None],
    }
    project.rows("rows.parquet", **rows)
    job = "name: j, kind: raw, input: rows.parquet, sampling: {temperature: 1.0, max_tokens: 4}"
    project.jobs(job)
    assert project.run().counts["num_failed"] == 0
    assert project.query("select count(distinct request_key) from artifacts") == [(1,)]
    project.jobs(f"{job}, columns: {{temperature: temperature, seed: lot}}")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_reused"], run.counts["num_failed"]) == (2, 1, 2)
    failed = {row[0]: row[2] for row in project.query(FAILURES)}
    assert "temperature must be at least 0" in failed["c"]
    assert "lot must be a whole number, found 2.5" in failed["d"]


@pytest.mark.rest
def test_a_night_goes_on_in_another_zone_and_locale(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = datetime.datetime(2026, 1, 5, 23, 30, tzinfo=datetime.UTC)
    times = pa.array([made], pa.timestamp("us", "Asia/Tokyo"))
    project.rows("rows.parquet", made_at=times, day=["2026-01-05"])
    (project.folder / "dated.yaml").write_text(
        "kind: dated\nversion: 1\nentry: item\nfields: [text, made_at]\n"
        'document: "{{ made_at }} {{ made_at.day }} {{ text }}"\n'
        "stages:\n  - {name: draft, instruction: Say it.}\noutput: {format: text}\n"
    )
    sql = "select made_at as id, made_at::date::text as text, made_at from 'rows.parquet'"
    limit = "sampling: {max_tokens: 8}"
    project.jobs(
        f'name: sql, kind: dated.yaml, input: {{sql: "{sql}"}}, {limit}',
        f"name: file, kind: dated.yaml, input: rows.parquet, {limit}, "
        "columns: {id: made_at, text: day, made_at: made_at}",
    )
    ids = [("2026-01-05T23:30:00+00:00",)]
    counts = []
    for zone, locale in (("UTC", "C.UTF-8"), ("Europe/Berlin", "th_TH.UTF-8")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", locale)
        counts.append(project.run().counts)
    assert (counts[0]["num_done"], counts[0]["num_reused"]) == (1, 1)  # both have one prompt
    assert (counts[1]["num_done"], counts[1]["num_reused"]) == (0, 2)
    assert project.query("select distinct item_id from artifacts") == ids
