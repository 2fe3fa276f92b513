"""SIGINT, SIGTERM, SIGHUP in every phase: a sentence, exit 4, and the next run does the rest."""

import json
import os
import signal
import time
from typing import Any

import pytest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Phase of a run: the line of stderr that it begins with, and the place at which the run is held so
# that it cannot get beyond.
PHASES = {
    "importing": ("", "publish.begin"),
    "checking the manifest": ("checking the manifest", "publish.begin"),
    "opening the store": ("opening the store", "publish.begin"),
    "entering the run": ("opening the store", "journal.create:1"),
    "reading": ("reading and tokenising", "engine.load"),
    "looking up": ("looking up earlier results", "engine.load"),
    "planning": ("planning", "engine.load"),
    "loading": ("loading builtin:fake", "engine.load"),
    "computing": ("computing", "engine.step:60"),
}
BEFORE = {"importing", "checking the manifest", "opening the store"}
AT_THE_PLACE = {"opening the store", "entering the run", "loading", "computing"}


def stopped_in(project: Any, phase: str, number: int, *options: object) -> Any:
    """A run that gets a signal in a phase, and ends although its engine is not released."""
    line, place = PHASES[phase]
    command = project.start_run(*options, faults=project.hold(place))
    command.wait_until_taken_over()
    command.wait_for(line)
    if phase in AT_THE_PLACE:
        command.wait_until_held()
    command.send(number)
    if not place.startswith("engine."):
        command.release()  # what is being written is finished first
    outcome = command.end()
    assert outcome.code == 4, (phase, outcome)
    return outcome


def assert_told(outcome: Any, number: int) -> None:
    """In words, once, on one of the streams."""
    name = signal.Signals(number).name
    before = f"interrupted by {name}: thothy-batch run had not finished"
    begun = f"stopped by {name} before anything was computed"
    entered = "stopped early (signal): "
    assert sum(outcome.said.count(text) for text in (before, begun, entered)) == 1, outcome


@pytest.mark.few(1)
@pytest.mark.parametrize("phase", ["importing", "opening the store", "loading"])
def test_a_signal_is_an_end_with_a_sentence(project: Any, phase: str) -> None:
    outcome = stopped_in(project, phase, signal.SIGTERM)
    assert_told(outcome, signal.SIGTERM)
    if phase in BEFORE:
        held_it = phase == "opening the store"
        found = project.query("select status, num_items from runs") if held_it else []
        assert found == ([("stopped", 0)] if held_it else [])
        assert held_it or not project.store.exists()
    else:
        found = project.query("select status, stop_reason, num_not_run from runs")
        assert found == [("stopped", "signal", 120)]


@pytest.mark.rest
@pytest.mark.parametrize("first", range(len(SIGNALS)))
def test_signals_in_all_phases_one_after_another_cost_nothing(
    project: Any, undisturbed: Any, first: int
) -> None:
    project.manifest(more="run: {grace: 0s}")
    for turn, phase in enumerate(PHASES, first):
        number = SIGNALS[turn % len(SIGNALS)]
        assert_told(stopped_in(project, phase, number), number)
    assert project.run("--quiet").code == 0
    project.check_whole(undisturbed)


@pytest.mark.rest
@pytest.mark.parametrize("phase", ["opening the store", "loading", "computing"])
def test_a_stopped_run_is_one_json_document(project: Any, phase: str) -> None:
    project.manifest(more="run: {grace: 0s}")
    document = json.loads(stopped_in(project, phase, signal.SIGHUP, "--json").out)
    assert document["exit_code"] == 4
    assert document["status"] == "stopped"
    assert document["num_items"] == document["num_not_run"] + document["num_done"]
    assert document["num_items"] == (0 if phase in BEFORE else 120)


@pytest.mark.rest
def test_signals_while_workers_tokenise_end_them_too(project: Any) -> None:
    """To the group, as a terminal and a service manager send them."""
    project.rows(20_000, "many.parquet")
    project.manifest(rows="many.parquet")
    for number, after in zip((*SIGNALS, signal.SIGTERM), (0.1, 0.7, 1.4, 2.1), strict=True):
        command = project.start_run(group=True, faults=project.hold("engine.load"))
        command.wait_for("reading and tokenising")
        time.sleep(after)
        command.send(number, group=True)
        outcome = command.end()
        assert outcome.code == 4, outcome
        assert_told(outcome, number)


@pytest.mark.rest
def test_a_signal_to_the_whole_group_drains_as_one_to_the_run(project: Any) -> None:
    """The engine's process gets it, too, also while it imports, and leaves it to the run."""
    project.manifest(more="run: {grace: 1h}")
    command = project.start_and_reach_the_middle(group=True)
    command.send(signal.SIGHUP, group=True)
    command.wait_until_stopping()
    command.release()
    outcome = command.end()
    assert outcome.code == 4, outcome
    assert "the engine died" not in outcome.said
    ((done, not_run),) = project.query("select num_done, num_not_run from runs")
    assert done >= 8
    assert done + not_run == 120
    assert project.query("select wasted_tokens from runs") == [(0,)]  # all that ran was finished


@pytest.mark.rest
def test_a_second_signal_does_not_wait_for_the_grace(project: Any, undisturbed: Any) -> None:
    project.manifest(more="run: {grace: 1h}")
    command = project.start_run(faults=project.hold("engine.step:20"))
    command.wait_until_held()
    command.send(signal.SIGTERM)
    command.wait_until_stopping()
    command.send(signal.SIGINT)
    outcome = command.end()
    assert outcome.code == 4, outcome
    assert "stopped early (signal)" in outcome.out
    assert project.run("--quiet").code == 0
    project.check_whole(undisturbed)


@pytest.mark.rest
@pytest.mark.parametrize("when", ["publishing", "afterwards"])
def test_a_signal_when_all_is_done_changes_nothing(
    project: Any, undisturbed: Any, when: str
) -> None:
    command = project.start_run(faults=project.hold("run.end") if when == "publishing" else "")
    if when == "publishing":
        command.wait_until_held()
    else:
        assert command.process.stdout.readline()
    for number in SIGNALS[:2]:
        command.send(number)
    command.release()
    outcome = command.end()
    assert outcome.code == 0, outcome
    if when == "publishing":
        assert "120 done" in outcome.out
    project.check_whole(undisturbed)


@pytest.mark.rest
def test_signals_that_the_starter_ignores_stay_ignored(project: Any) -> None:
    """`nohup thothy-batch run` outlives its terminal."""
    project.prefix = ("nohup",)
    command = project.start_run(faults=project.hold("engine.step:20"))
    command.wait_for("opening the store")
    command.send(signal.SIGHUP)
    command.wait_until_held()
    command.send(signal.SIGHUP)
    command.release()
    assert command.end().code == 0


@pytest.mark.rest
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "words", ["plan night.yaml", "status", "report --html page.html", "export -o all.parquet"]
)
def test_other_commands_end_promptly_and_leave_nothing_half_written(
    project: Any, words: str, number: int
) -> None:
    """Wherever it strikes: done, with the whole output, or stopped, with none."""
    project.manifest("")
    assert project.run("--quiet", "--limit", 4).code == 0
    command, *rest = words.split()
    target = [] if command == "plan" else [project.store]
    before = set(project.folder.iterdir())
    for after in (0.0, 0.3, 0.6, 0.9):
        process = project.start(command, *target, *rest)
        process.wait_for(lambda process=process: process.has_ended or process.has_taken_over)
        time.sleep(after)
        if not process.has_ended:
            process.send(number)
        outcome = process.end()
        new = {p for p in set(project.folder.iterdir()) - before if p.suffix != ".log"}
        if outcome.code == 4:
            name = signal.Signals(number).name
            assert f"interrupted by {name}: thothy-batch {command} had not finished" in outcome.err
        else:
            assert outcome.code == 0, outcome
        assert new <= {project.folder / "page.html", project.folder / "all.parquet"}
        for path in new:
            assert os.stat(path).st_size > 500
            path.unlink()
