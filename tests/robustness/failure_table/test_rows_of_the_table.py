"""Maps each row of the failure table to the tests that provoke it for real.

The table stands in the design ("Nothing lost"). Tests of this folder use the program as a process
of its own; the others lie where their subject lies. `make test` runs the quick ones of this folder
and `make test-rest` the others; `make faults` kills and disturbs runs by the hundred.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]

PROVOKED_BY = {
    "bad row": (
        "contract/test_bad_input.py",
        "runner/entries/test_bad_rows.py",
        "manifest/test_items.py",
    ),
    "model output bad": ("runner/work/test_retry_policy.py", "kinds/test_evaluation.py"),
    "most rows of a job bad": (
        "runner/entries/test_bad_rows.py::test_a_job_with_too_many_failures_stops_and_the_others_go_on",
        "runner/work/test_retry_policy.py::test_a_job_is_judged_by_first_attempts",
    ),
    "out of memory": (
        "robustness/failure_table/test_engine.py::test_an_engine_short_of_memory_goes_on_with_smaller_steps",
        "engine/process/test_supervisor.py",
    ),
    "engine crash": (
        "robustness/failure_table/test_engine.py::test_an_engine_killed_from_outside_costs_its_steps_alone",
        "robustness/failure_table/test_engine.py::test_a_row_that_kills_every_engine_among_200_is_put_aside",
        "robustness/failure_table/test_engine.py::test_an_engine_killed_again_and_again_while_it_loads_ends_the_run",
        "runner/loop/test_supervision.py::test_a_poison_row_among_200_costs_itself_alone",
        "engine/process/test_worker.py",
    ),
    "no progress for N seconds": (
        "robustness/failure_table/test_engine.py::test_an_engine_that_hangs_is_started_anew",
        "runner/loop/test_supervision.py::test_a_hang_is_named_in_store_and_report",
    ),
    "SIGINT/SIGTERM": (
        "robustness/failure_table/test_signals.py",
        "robustness/failure_table/test_terminal.py",
        "runner/loop/test_finish.py::test_a_signal_drains_and_the_next_run_does_the_rest",
        "runner/loop/test_finish.py::test_a_second_signal_skips_the_grace",
    ),
    "deadline or budget": (
        "robustness/failure_table/test_engine.py::test_a_run_with_minutes_to_its_deadline",
        "runner/session/test_deadlines.py",
        "contract/test_stopping.py::test_run_stops_in_time_with_reason_deadline",
    ),
    "disk full, store unwritable": (
        "robustness/failure_table/test_full_disk.py",
        "store/test_faults.py",
        "robustness/failure_table/test_second_run.py::test_a_place_where_no_lock_can_be_made_is_named",
    ),
    "two runs at once": (
        "robustness/failure_table/test_second_run.py",
        "store/test_lock.py",
        "contract/test_stopping.py::test_second_run_meets_the_lock_and_sigterm_stops_the_first",
    ),
}
# Not rows of the table, but promises of the text above it.
ALSO_PROVOKED = {
    "a reader holds the store for the whole run": (
        "robustness/failure_table/test_readers.py",
        "runner/loop/test_finish.py::test_a_reader_never_fails_a_run",
    ),
    "kill -9 at any instant": (
        "runner/loop/test_finish.py::test_a_kill_of_the_parent_loses_nothing_and_leaves_no_child",
        "robustness/crash/test_kill.py",
        "robustness/crash/test_points.py::test_disturbed_nights_end_as_undisturbed",
    ),
    "a stale lock": (
        "robustness/failure_table/test_second_run.py::test_a_lock_file_that_nobody_holds_holds_nobody_up",
        "robustness/failure_table/test_second_run.py::test_a_run_killed_with_minus_nine_holds_nobody_up",
    ),
}


@pytest.mark.parametrize("name", [*PROVOKED_BY, *ALSO_PROVOKED])
def test_every_row_has_tests_that_are_there(name: str) -> None:
    for place in (PROVOKED_BY | ALSO_PROVOKED)[name]:
        path, _, function = place.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in found if function else any(n.startswith("test_") for n in found), place


def test_the_rows_are_those_of_the_design(shared: Path) -> None:
    section = (shared / "design.md").read_text(encoding="utf-8").partition("## 7.")[2]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    names = [line.split("|")[1].partition("(")[0].strip() for line in lines]
    assert names == list(PROVOKED_BY)
