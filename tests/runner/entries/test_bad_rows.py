"""An unusable row fails by itself, with a code and a message; its neighbours are done."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from thothy_batch.engine.start import start_in_process
from thothy_batch.errors import ManifestError, StoreBusyError
from thothy_batch.records import EngineSpec
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.commands.report import report_document
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.store.queries import result_index

FAILURES = "select item_id, variant, code, message from failures order by all"


def test_each_bad_row_has_its_code(project: Any) -> None:
    project.rows(
        "rows.parquet",
        id=["ok", "null", "empty", "long", None, "ok", "undecodable"],
        text=pa.array(
            [b"fine", None, b"  ", b"x" * 5000, b"fine", b"again", b"\xff\xfe"], pa.binary()
        ).cast(pa.binary()),
    )
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    run = project.run()
    assert (run.exit_code, run.counts["num_done"], run.counts["num_failed"]) == (1, 1, 6)
    found = {row[0] + row[1]: (row[2], row[3]) for row in project.query(FAILURES)}
    assert found["null"][0] == found["empty"][0] == found["ok#2"][0] == "invalid_input"
    assert found["undecodable"][0] == found["row 5 of rows.parquet"][0] == "invalid_input"
    code, message = found["long"]
    assert code == "prompt_too_long"
    assert "max_tokens 20" in message
    assert "4096" in message


def test_bad_rows_are_failures_again_in_the_next_run(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], text=["fine", None])
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    project.run()
    again = project.run()
    assert (again.exit_code, again.counts["num_reused"], again.counts["num_failed"]) == (1, 1, 1)
    assert again.output_tokens == 0


@pytest.mark.few(1)
@pytest.mark.parametrize("ids", [[300], [-1, 5], []])
def test_token_ids_out_of_range_are_refused(project: Any, ids: list[int]) -> None:
    project.rows(
        "rows.parquet",
        id=["good", "bad"],
        prompt_token_ids=pa.array([[1, 2, 3], ids], pa.list_(pa.int32())),
    )
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 4}")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_failed"]) == (1, 1)
    ((item, _, code, _),) = project.query(FAILURES)
    assert (item, code) == ("bad", "invalid_input")


@pytest.mark.few(1)
@pytest.mark.parametrize(("how", "kept"), [("truncate_head", "END"), ("truncate_tail", "BEGIN")])
def test_a_truncated_document_keeps_its_instruction(project: Any, how: str, kept: str) -> None:
    seen: list[str] = []
    project.rows("rows.parquet", id=["a"], text=["BEGIN" + "x" * 6000 + "END"])
    project.jobs(
        f"name: j, kind: summary, input: rows.parquet, on_too_long: {how}, "
        "sampling: {max_tokens: 20}"
    )

    def start(spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None) -> Any:
        engine = start_in_process(spec)
        submit = engine.submit

        def watched(requests: Any) -> None:
            seen.extend(bytes(list(r.prompt_token_ids)).decode() for r in requests)
            submit(requests)

        engine.submit = watched  # type: ignore[method-assign]
        return engine

    run = project.run(start_engine=start)
    assert run.counts["num_done"] == 1
    (prompt,) = seen
    assert kept in prompt
    assert ("END" in prompt) != ("BEGIN" in prompt)
    assert prompt.rstrip().endswith("keep its main figures.")
    assert len(prompt) + 20 in (4095, 4096)
    ((flags,),) = project.query("select flags from artifacts")
    assert "truncated" in flags


def test_an_instruction_alone_that_is_too_long_fails(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["x" * 5000])
    project.jobs(
        "name: j, kind: summary, input: rows.parquet, on_too_long: truncate_tail, "
        "sampling: {max_tokens: 4000}"
    )
    project.run()
    ((_, _, code, message),) = project.query(FAILURES)
    assert code == "prompt_too_long"
    assert "document cut away" in message


@pytest.mark.rest
def test_a_truncation_keeps_a_part_of_the_document(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["x" * 5000])
    job = "name: j, kind: summary, input: rows.parquet, on_too_long: truncate_tail"
    project.rows("short.parquet", id=["a"], text=["x"])
    project.jobs("name: j, kind: summary, input: short.parquet")
    shortest = len(plan_manifest(project.options(), Silent())["first_prompt"])
    project.jobs(f"{job}, sampling: {{max_tokens: {4096 - shortest + 1}}}")
    project.run()
    ((_, _, code, _),) = project.query(FAILURES)
    assert code == "prompt_too_long"  # only the instruction would fit
    project.jobs(f"{job}, sampling: {{max_tokens: {4096 - shortest}}}")
    assert project.run().counts["num_done"] == 1


@pytest.mark.rest
def test_a_truncated_row_and_its_whole_twin_have_different_keys(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], prompt=["x" * 4090, "x" * 5000])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, on_too_long: truncate_tail, "
        "sampling: {max_tokens: 6}"
    )
    project.run()
    found = project.query("select item_id, flags from artifacts order by item_id")
    assert found == [("a", []), ("b", ["truncated"])]


@pytest.mark.rest
def test_a_group_is_drafted_again_when_an_item_becomes_unusable(project: Any) -> None:
    job = "name: j, kind: report, input: rows.parquet, params: {group_by: week}, "
    project.jobs(job + "sampling: {max_tokens: 20}")
    flags = "select list_contains(flags, 'incomplete_group') from latest_artifacts"
    for texts, lacks in ((["one"], False), (["one", None], True), (["one"], False)):
        ids = list(range(len(texts)))
        project.rows("rows.parquet", id=ids, text=texts, week=["w"] * len(texts))
        run = project.run()
        assert project.query(flags) == [(lacks,)]
        assert project.query("select num_flagged from job_stats where run_id = ?", run.run_id) == [
            (run.counts["num_flagged"],)
        ]


@pytest.mark.rest
def test_a_row_that_the_pool_was_too_small_for_is_done_with_a_larger_one(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], prompt=["x" * 100])
    job = "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}"
    project.jobs(job, more='engine: {kv_memory: "4KiB"}')
    assert project.run().counts["num_failed"] == 1
    ((_, _, code, message),) = project.query(FAILURES)
    assert (code, "KV pool" in message) == ("prompt_too_long", True)
    project.jobs(job)
    assert project.run().counts["num_done"] == 1


def test_a_pool_too_small_for_one_row_fails_that_row(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], prompt=["short", "long " * 60])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}",
        more="engine: {num_blocks: 4, block_size: 16}",
    )
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_failed"]) == (1, 1)
    ((item, _, code, message),) = project.query(FAILURES)
    assert (item, code) == ("b", "prompt_too_long")
    assert "64" in message


def test_translations_are_entries_per_language(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b", "a"], text=["one", None, "two"])
    project.jobs(
        "name: j, kind: translation, input: rows.parquet, params: {target_langs: [de, es]}, "
        "sampling: {max_tokens: 12}"
    )
    project.run()
    done = project.query("select item_id, variant from artifacts order by all")
    assert done == [("a", "de"), ("a", "es")]
    failed = [row[:2] for row in project.query(FAILURES)]
    assert failed == [("a", "de#2"), ("a", "es#2"), ("b", "de"), ("b", "es")]


def test_a_language_is_not_taken_for_that_of_another_row(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "a"], text=["one", "two"], target_lang=["de#2", "de"])
    project.jobs("name: j, kind: translation, input: rows.parquet, sampling: {max_tokens: 12}")
    assert project.run().counts["num_failed"] == 1
    assert [row[:2] for row in project.query(FAILURES)] == [("a", "")]
    assert project.query("select item_id, variant from artifacts") == [("a", "de")]


def test_a_translation_without_a_language_is_a_manifest_error(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["one"])
    project.jobs("name: j, kind: translation, input: rows.parquet")
    with pytest.raises(ManifestError, match="target_lang"):
        project.run()


def test_a_language_listed_twice_is_a_manifest_error_with_its_line(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["one"])
    project.jobs(
        "name: j, kind: translation, input: rows.parquet, params: {target_langs: [fr, de, fr]}"
    )
    with pytest.raises(ManifestError, match=r"target_langs lists 'fr' twice") as caught:
        project.run()
    [problem] = caught.value.problems
    assert problem.line is not None


def test_a_row_without_a_language_fails_by_itself(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], text=["x", "y"], target_lang=["de", None])
    project.jobs("name: j, kind: translation, input: rows.parquet, sampling: {max_tokens: 12}")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_failed"]) == (1, 1)


def test_a_group_is_drafted_from_its_good_items_and_flagged(project: Any) -> None:
    project.rows(
        "rows.parquet",
        id=["n1", "n2", "n3", "n4"],
        week=["w1", "w1", "w2", None],
        text=["one", None, "three", "four"],
    )
    project.jobs(
        "name: j, kind: report, input: rows.parquet, params: {group_by: week}, "
        "sampling: {max_tokens: 30}"
    )
    project.run()
    flags = dict(project.query("select item_id, flags from artifacts"))
    assert set(flags) == {"w1", "w2"}
    assert "incomplete_group" in flags["w1"]
    assert "incomplete_group" not in flags["w2"]
    assert [row[0] for row in project.query(FAILURES)] == ["n2", "n4"]


def test_all_problems_of_a_manifest_are_reported_together(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], txt=["one"])
    project.jobs(
        "name: a, kind: summary, input: rows.parquet",
        "name: b, kind: summry, input: rows.parquet",
        "name: c, kind: hook, input: nothing.parquet, sampling: {temperature: 0.0}",
    )
    with pytest.raises(ManifestError) as raised:
        project.run()
    text = str(raised.value)
    assert all(word in text for word in ("'text'", "summry", "temperature"))
    assert not project.store.exists()


def test_a_job_with_too_many_failures_stops_and_the_others_go_on(project: Any) -> None:
    """The kind fails completions that repeat themselves; a raw neighbour has no checks."""
    (project.folder / "strict.yaml").write_text(
        "kind: strict\nversion: 1\nentry: item\nfields: [text]\n"
        "sampling: {temperature: 0.0, max_tokens: 3}\n"
        'document: "{{ text }}"\nstages:\n  - {name: draft, instruction: Say it.}\n'
        "output: {format: text}\nchecks: {cut_off: fail}\n"
    )
    rows = {"id": list(range(400)), "text": [f"text {i}" for i in range(400)]}
    project.rows("rows.parquet", **rows)
    project.rows("raw.parquet", id=rows["id"], prompt=rows["text"])
    project.jobs(
        "name: bad, kind: strict.yaml, input: rows.parquet, priority: 9",
        "name: good, kind: raw, input: raw.parquet, sampling: {max_tokens: 3}",
        more="engine: {max_seqs: 8}",
    )
    run = project.run()
    counts = {job["name"]: job for job in run.jobs}
    assert counts["bad"]["stopped"]
    stopped = r"job 'bad' stopped: (\d+) of (\d+) completions failed their checks"
    (message,) = (text for text in project.notes.texts if text.startswith("job 'bad'"))
    assert re.match(stopped, message)
    assert counts["bad"]["num_failed"] < 200
    assert counts["bad"]["num_not_run"] > 100
    assert counts["good"]["num_done"] == 400
    assert run.exit_code == 1
    reasons = project.query("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("job_stopped",)]


ROWS_OF_FAILURES = "select run_id, item_id, code, message from failures order by failed_at, rowid"
LATEST = "select item_id, code, message, run_id from latest_failures order by item_id"


def test_an_identical_failure_of_a_bad_row_is_not_written_anew_every_night(project: Any) -> None:
    """Its entry is failed in every run all the same, and every report says why."""
    project.rows("rows.parquet", id=["a", "b", "c"], text=["fine", None, "x" * 5000])
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    first = project.run()
    written = project.query(ROWS_OF_FAILURES)
    assert len(written) == 2
    again = project.run()
    assert project.query(ROWS_OF_FAILURES) == written
    assert (again.exit_code, again.counts["num_failed"]) == (1, 2)
    status = "select count(*) from run_items where run_id = ? and status = 'failed'"
    assert project.query(status, again.run_id) == [(2,)]
    reports = [report_document(project.store, run.run_id) for run in (first, again)]
    assert reports[0]["failures"] == reports[1]["failures"] != []
    assert [row[:3] for row in project.query(LATEST)] == [row[1:] for row in written]


@pytest.mark.rest
def test_another_failure_of_a_bad_row_is_written_and_so_is_the_first_one_come_back(
    project: Any,
) -> None:
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    for text in (None, "x" * 5000, None, None):
        project.rows("rows.parquet", id=["a", "b"], text=["fine", text])
        project.run()
    codes = [row[2] for row in project.query(ROWS_OF_FAILURES)]
    assert codes == ["invalid_input", "prompt_too_long", "invalid_input"]
    assert [row[1] for row in project.query(LATEST)] == ["invalid_input"]


@pytest.mark.rest
@pytest.mark.parametrize("option", ["retry_failed", "force"])
def test_a_new_attempt_that_was_asked_for_has_its_row(project: Any, option: str) -> None:
    project.rows("rows.parquet", id=["a"], text=pa.array([None], pa.string()))
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    project.run()
    project.run(**{option: True})
    assert len(project.query(ROWS_OF_FAILURES)) == 2


@pytest.mark.rest
def test_a_reader_makes_no_failure_be_written_anew(project: Any, monkeypatch: Any) -> None:
    """The index of results tells what the database cannot tell while it is held."""
    project.rows("rows.parquet", id=["a", "b"], text=["fine", None])
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 20}")
    project.run()

    def busy(*args: Any, **more: Any) -> Any:
        raise StoreBusyError("it is open in another program")

    with monkeypatch.context() as patch:
        patch.setattr(result_index, "open_database", busy)
        project.run()
    assert len(project.query(ROWS_OF_FAILURES)) == 1
