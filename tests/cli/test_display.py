"""Displays of a run: live on a terminal, a few plain lines in a log."""

import io
import re
import time

import pytest
from rich.console import Console
from virtual_clock import VirtualClock

from thothy_batch.cli.display import LineDisplay
from thothy_batch.cli.live import JobBars, LiveDisplay
from thothy_batch.logs import logged_run
from thothy_batch.runner.monitoring.progress import Snapshot
from thothy_batch.runner.work.counts import JobCount


def snapshot() -> Snapshot:
    job = JobCount("jobs [bold]", "raw", 5, 20.0, num_items=10, num_done=4, num_failed=1)
    return Snapshot(
        "running", "r1", 12.0, (job,), 10, 5, 3, 2, 25, 100, 400, 123.4, tokens_left=80, eta_s=65.0
    )


def test_a_log_gets_one_line_per_interval(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay(every_s=3600) as display:
        for num in range(50):
            display.phase(f"reading and tokenising: {num} entries")
        for _ in range(50):
            display.progress(snapshot())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_a_line_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    LineDisplay(every_s=0).progress(snapshot())
    line = capsys.readouterr().err
    for word in (
        "5 of 10",
        "1 failed",
        "123 tokens/s",
        "KV 25%",
        "3 running",
        "2 waiting",
        "1 min",
    ):
        assert word in line


_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (.*)")


def _said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines so far, each with its date and time, which are left out."""
    found = [_LINE.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    return [line[2] for line in found if line is not None]


def test_every_phase_speaks_and_says_how_far_it_is(
    virtual_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that says nothing itself, and one that hangs after it said how far it is."""
    display = LineDisplay(every_s=30)
    display.phase("loading a model")
    for _ in range(6):
        virtual_clock.sleep(10)
        display.beat()
    assert _said(capsys) == [
        "loading a model",
        "loading a model (30 s)",
        "loading a model (1 min 00 s)",
    ]
    for number in range(5):
        display.phase(f"tokenising: {number} rows")
        virtual_clock.sleep(7)
        display.beat()
    assert _said(capsys) == ["tokenising: 0 rows", "tokenising: 4 rows (35 s)"]


def test_the_beat_of_a_computing_run_has_its_figures(
    virtual_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    display = LineDisplay(every_s=30)
    display.phase("computing")
    display.progress(snapshot())
    virtual_clock.sleep(40)
    display.beat()
    display.phase("publishing")
    virtual_clock.sleep(40)
    display.beat()
    first, second, *rest = _said(capsys)
    assert first == "computing"
    assert "5 of 10" in second
    assert rest == ["publishing", "publishing (40 s)"]


def test_the_heart_beats_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay(every_s=0.01) as display:
        display.phase("planning")
        while "planning (" not in capsys.readouterr().err:
            time.sleep(0.01)


def test_a_line_has_date_time_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    with logged_run("20261201-120000-abcdef"):
        LineDisplay().note("a note")
    line = capsys.readouterr().err.strip()
    assert re.fullmatch(r"\d{4}(-\d\d){2} \d\d(:\d\d){2} 20261201-120000-abcdef a note", line)


def test_a_phase_on_a_terminal_says_how_long_it_takes(virtual_clock: VirtualClock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = LiveDisplay(console)
    display.phase("checking")
    virtual_clock.sleep(500)
    display.phase("compiling CPU kernels: 0 of 9")
    virtual_clock.sleep(20)
    display.phase("compiling CPU kernels: 4 of 9")
    assert str(display._draw()) == "compiling CPU kernels: 4 of 9 (20 s)"


def test_the_live_display_draws_jobs_as_plain_text() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LiveDisplay(console) as display:
        display.phase("computing")
        display.progress(snapshot())
        display.note("a note")
        drawn = io.StringIO()
        Console(file=drawn, width=120).print(display._draw())
    assert "jobs [bold]" in drawn.getvalue()
    assert "5/10" in drawn.getvalue()
    assert "a note" in console.file.getvalue()  # type: ignore[attr-defined]


_HOSTILE = "x\x1b[2J\x9b31m\u202e\x07"


def test_notes_and_phases_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    for display in (LineDisplay(every_s=0), LiveDisplay(console)):
        with display:
            display.note(_HOSTILE)
            display.phase(f"loading {_HOSTILE}")
    for text in (capsys.readouterr().err, console.file.getvalue()):  # type: ignore[attr-defined]
        assert text.count(r"x\x1b[2J\x9b31m\u202e\x07") >= 2
        assert not set(text) & {"\x9b", "\u202e", "\x07"}
        assert "\x1b[2J" not in text


def test_a_long_name_leaves_room_for_the_figures() -> None:
    job = JobCount("wide " * 1000, "raw", 5, 20.0, num_items=10, num_done=4)
    drawn = io.StringIO()
    Console(file=drawn, width=120).print(JobBars((job,)))
    (line,) = drawn.getvalue().splitlines()
    assert "4/10" in line
