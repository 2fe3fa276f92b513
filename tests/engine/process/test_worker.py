"""The engine in its own process: it computes, fails with a sentence, and never outlives a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import drain

from thothy_batch.engine.start import start_child, start_in_process
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, FailureCode, ModelSpec, Request, Sampling

EMBEDDED = Path(__file__).parents[3] / "sample_data" / "model"
ENDLESS = 4000  # tokens: with a slow fake this goes on for the whole test


def spec(knobs: str = "", **settings: Any) -> EngineSpec:
    return EngineSpec(model=ModelSpec(id=f"builtin:fake{knobs}"), **settings)


@pytest.fixture
def child() -> Iterator[Callable[..., Any]]:
    """Start engines that are closed at the end."""
    started = []

    def start(knobs: str = "", **settings: Any) -> Any:
        started.append(start_child(spec(knobs, **settings)))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """For as long as a test may last."""
    while not condition():
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """True if a process has ended, also where it is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_computes_what_an_engine_in_process_computes(child: Any, request_of: Any) -> None:
    requests = [
        request_of(i, b"a prompt %d" % i, 40, num_samples=1 + i % 3, temperature=0.5, seed=i)
        for i in range(50)
    ]
    requests.append(request_of(50, b"too long", 9999))
    local = start_in_process(spec(block_size=4))
    engine = child(block_size=4)
    assert engine.info.engine == local.info.engine
    completions = []
    for each in (local, engine):
        each.submit(requests)
        update = drain(each)
        assert [f.code for f in update.failures] == [FailureCode.PROMPT_TOO_LONG]
        assert len(update.results) == 50
        completions.append({r.request_id: r.completions for r in update.results})
    assert completions[0] == completions[1]


@pytest.mark.rest
def test_errors_at_start_arrive_as_themselves() -> None:
    with pytest.raises(ModelError, match="no_such_knob"):
        start_child(spec("?no_such_knob=1"))
    with pytest.raises(ModelError, match="magic") as error:
        start_child(spec(impl="magic"))
    assert "auto" in error.value.hint


@pytest.mark.rest
def test_phases_are_told_until_the_engine_is_ready() -> None:
    phases: list[str] = []
    model = ModelSpec(id=str(EMBEDDED), random_weights=True)
    engine = start_child(EngineSpec(model=model, num_blocks=8), on_phase=phases.append)
    engine.close()
    assert [text for text in phases if not text.startswith("compiling CPU kernels")] == [
        "loading the weights",
        "warming up",
    ]


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        ("memory", "ran out of memory"),
        ("error", "was asked to fail"),
        ("exit", "exit code 7"),
    ],
)
def test_a_failing_engine_says_why(child: Any, request_of: Any, fail: str, sentence: str) -> None:
    engine = child(f"?fail={fail}&fail_at_step=3")
    engine.submit([request_of(0, b"x", 20, ignore_eos=True)])
    with pytest.raises(EngineError, match=sentence):
        drain(engine)
    with pytest.raises(EngineError, match=sentence):  # and goes on saying so
        engine.submit([])


def test_a_killed_child_is_noticed_and_named(child: Any, request_of: Any, tmp_path: Path) -> None:
    engine = child("?step_ms=20")
    engine.submit([request_of(0, b"x", ENDLESS, ignore_eos=True)])
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="SIGKILL"):
        drain(engine)


def test_the_last_lines_of_the_log_come_with_the_error(tmp_path: Path, request_of: Any) -> None:
    log = tmp_path / "engine.log"
    log.write_text("of an earlier run\n")
    engine = start_child(spec("?fail=error&fail_at_step=1"), log_path=log)
    engine.submit([request_of(0, b"x")])
    with pytest.raises(EngineError):
        drain(engine)
    engine.close()
    assert log.read_text().startswith("of an earlier run\n")
    assert "RuntimeError: the fake model was asked to fail" in log.read_text()


def test_close_does_not_wait_for_a_step_to_end(child: Any, request_of: Any) -> None:
    engine = child("?step_ms=3600000")
    engine.submit([request_of(i, b"x", ENDLESS, ignore_eos=True) for i in range(20)])
    engine.poll(0.5)
    engine.close()
    assert is_gone(engine.pid)
    engine.close()


@pytest.mark.rest
def test_a_parent_that_does_not_poll_blocks_neither_side(child: Any, request_of: Any) -> None:
    """Far more than a socket buffer holds is sent both ways without a poll."""
    engine = child()
    prompt = bytes(range(1, 200)) * 5
    engine.submit([request_of(i, prompt + b"%d" % i, 60) for i in range(2000)])
    engine.submit([request_of(i, prompt, 60) for i in range(2000, 3000)])
    time.sleep(1.0)
    update = drain(engine)
    assert sorted(r.request_id for r in update.results) == list(range(3000))


@pytest.mark.rest
def test_a_working_child_reports_every_second(child: Any, request_of: Any) -> None:
    engine = child("?step_ms=10")
    engine.submit([request_of(0, b"x", ENDLESS, ignore_eos=True)])
    steps = []
    while len(steps) < 2:
        update = engine.poll(5.0)
        assert not update.results, "it ended before it said anything"
        steps += update.steps
        if update.totals.num_steps:
            assert update.num_running == 1
    assert all(step.decode_tokens > 0 for step in steps)


def test_stop_admitting_gives_back_what_was_not_started(
    child: Any, request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THOTHY_FAULTS", f"engine.step:3=hold:{tmp_path / 'release'}")
    engine = child(max_seqs=2)
    engine.submit([request_of(i, b"prompt %d" % i, 100, ignore_eos=True) for i in range(10)])
    wait_until((tmp_path / "release.held").exists)
    engine.stop_admitting()
    engine.give_back()
    engine.submit([request_of(10, b"late", 5)])
    (tmp_path / "release").touch()
    update = drain(engine)
    assert len(update.results) == 2
    assert not update.failures
    assert update.totals.output_tokens == 2 * 100


def test_signals_of_the_terminal_do_not_end_the_child(child: Any, request_of: Any) -> None:
    engine = child("?step_ms=5")
    engine.submit([request_of(0, b"x", 50, ignore_eos=True)])
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, number)
    assert len(drain(engine).results) == 1


@pytest.mark.rest
def test_a_real_model_runs_in_a_child(shared: Path) -> None:
    directory = shared / "data" / "weights" / "stories260K"
    rows = [json.loads(s) for s in (directory / "golden_greedy.jsonl").read_text().splitlines()[:6]]
    engine = start_child(EngineSpec(model=ModelSpec(id=str(directory)), needed_tokens=4000))
    try:
        sampling = Sampling(max_tokens=64, ignore_eos=True, repetition_stop=False)
        engine.submit(
            [Request(i, "", row["prompt_token_ids"], sampling) for i, row in enumerate(rows)]
        )
        results = {r.request_id: r for r in drain(engine).results}
        for i, row in enumerate(rows):
            assert list(results[i].completions[0].token_ids) == row["output_token_ids"]
        assert engine.info.engine.impl == "cpu"
        assert engine.info.engine.threads
        assert engine.info.model.architecture == "LlamaForCausalLM"
    finally:
        engine.close()


PARENT = """
import sys, time
from thothy_batch.engine.start import start_child
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling
engine = start_child(EngineSpec(model=ModelSpec(id="builtin:fake?" + sys.argv[1])))
sampling = Sampling(max_tokens=4000, ignore_eos=True, repetition_stop=False)
engine.submit([Request(0, "", [1, 2, 3], sampling)])
print(engine.pid, flush=True)
time.sleep(3600)
"""


def start_parent(knobs: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, knobs], stdout=subprocess.PIPE, text=True, env=environment
    )


def kill_parent(parent: "subprocess.Popen[str]", child_pid: int) -> None:
    parent.kill()
    parent.wait()
    wait_until(lambda: is_gone(child_pid))
    assert parent.stdout is not None
    parent.stdout.close()


@pytest.mark.parametrize("knobs", ["step_ms=1", "step_ms=3600000"])
def test_no_child_outlives_a_parent_that_was_killed(knobs: str) -> None:
    parent = start_parent(knobs)
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    assert not is_gone(child_pid)
    kill_parent(parent, child_pid)


@pytest.mark.rest
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_child_outlives_a_parent_that_was_killed_while_it_loads() -> None:
    parent = start_parent("load_ms=3600000")
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    wait_until(lambda: bool(children.read_text().split()))
    child_pid = int(children.read_text().split()[0])
    time.sleep(0.3)
    kill_parent(parent, child_pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's notice exists on Linux only")
def test_no_child_outlives_its_parent_even_where_no_thread_of_it_runs() -> None:
    """A child that holds its interpreter (a long compilation) cannot notice anything itself."""
    parent = start_parent("step_ms=1")
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    os.kill(child_pid, signal.SIGSTOP)
    kill_parent(parent, child_pid)
