"""The command `bench`: one document, exit codes, every request accounted for."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bench_cases import FAKE, VOCAB, call, rows_file

from thothy_batch.bench import measure
from thothy_batch.engine.hardware.gpu import Gpu
from thothy_batch.errors import EngineError
from thothy_batch.runner.session.locking import device_locked, holder_of
from thothy_batch.runner.session.options import IfLocked
from thothy_batch.store.lock import read_holder

GPU = Gpu("NVIDIA H200", 141 << 30, 140 << 30, "570.86.15", "9.0", "GPU-1")


def test_json_is_one_document_and_progress_goes_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(capsys, "--lengths", "778/12", "--requests", 7, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["prompt_tokens"], found["output_tokens"]) == (7 * 778, 7 * 12)
    assert (found["num_requests"], found["num_done"], found["num_refused"]) == (7, 7, 0)
    assert (found["device"], found["dtype"], found["seed"]) == ("cpu", "float32", 0)
    assert (found["roofline_fraction"], found["busy_fraction"]) == (None, None)
    assert found["peak_memory_bytes"] > 1 << 20
    assert {"thothy-batch", "torch", "python"} <= set(found["versions"])
    assert "computing" in err


def test_the_last_line_is_the_document_and_a_table_stands_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = call(capsys, "--documents", 3, "--document-tokens", 70, "--lengths", "9/5")
    *table, line = out.splitlines()
    assert code == 0
    assert json.loads(line)["num_done"] == 12
    assert any(row.startswith("output tokens/s") for row in table)
    assert any("3 documents of 70 tokens, 4 artifacts each" in row for row in table)


def test_unfit_requests_and_bad_rows_are_named_and_the_others_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rows_file(
        tmp_path / "w.parquet",
        id=["ok", "long", "null", "empty", "none", "beyond", "huge"],
        prompt_token_ids=[[1, 2], [7] * 4090, None, [], [5], [VOCAB], [1 << 40]],
        max_tokens=[3, 9, 3, 3, 0, 3, 3],
    )
    code, out, _ = call(capsys, path)
    *table, line = out.splitlines()
    found = json.loads(line)
    assert code == 1, "as a run of which some entries failed"
    assert (found["num_requests"], found["num_done"], found["num_refused"]) == (7, 1, 6)
    assert (found["prompt_tokens"], found["output_tokens"]) == (2, 3)
    refused = {row["name"]: row["message"] for row in found["refused"]}
    words = {
        "row 2 (long)": "context of 4096 tokens",
        "row 3 (null)": "prompt_token_ids is null",
        "row 4 (empty)": "prompt_token_ids is empty",
        "row 5 (none)": "max_tokens is 0",
        "row 6 (beyond)": "token id 256",
        "row 7 (huge)": "an invalid token id",
    }
    assert set(refused) == set(words)
    assert all(words[name] in refused[name] for name in words)
    assert sum(row.startswith("refused: row") for row in table) == 5
    assert "refused: and 1 more" in table


def test_where_nothing_fits_there_are_no_rates(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--lengths", "5000/9", "--requests", 2)
    found = json.loads(out.splitlines()[-1])
    assert (code, found["num_done"], found["num_refused"]) == (1, 0, 2)
    assert found["output_tokens_per_s"] is None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no workload was named"),
        (["nothing.parquet"], "nothing.parquet: there is no such file"),
        (["--lengths", "many/few"], "--lengths 'many/few'"),
        (["--lengths", "9-3/4"], "--lengths '9-3/4'"),
        (["--lengths", "0/4"], "--lengths '0/4'"),
        (["--lengths", "8/99999999999999999999"], "--lengths '8/99999999999999999999'"),
        (["--lengths", ""], "--lengths ''"),
        (["--lengths", "8/4", "--requests", "9" * 30], "more than 1,073,741,824 tokens"),
        (["--documents", "9", "--document-tokens", "9" * 30], "more than 1,073,741,824 tokens"),
        (["x.parquet", "--lengths", "4/4"], "leave one of them out"),
        (["--lengths", "4/4", "--artifacts", "2"], "--artifacts goes with --documents"),
        (["--documents", "4", "--requests", "2"], "--requests goes with --lengths alone"),
        (["--documents", "0"], "--documents 0"),
        (["--lengths", "4/4", "--limit", "0"], "--limit 0"),
        (["--lengths", "4/4", "--limit", "few"], "--limit"),
        (["--lengths", "4/4", "--seed", "-1"], "--seed -1"),
        (["--lengths", "4/4", "--order", "best"], "order 'best'"),
        (["--lengths", "4/4", "--dtype", "float16"], "float16"),
        (["--lengths", "4/4", "--device", "tpu"], "tpu"),
        (["--lengths", "4/4", "--impl", "magic"], "magic"),
        (["--lengths", "4/4", "--kv-memory", "8 cups"], "8 cups"),
        (["--lengths", "4/4", "--max-seqs", "0"], "max_seqs"),
        (["--lengths", "4/4", "--model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_bad_usage_is_exit_code_2_with_a_sentence(
    capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert words in err


def test_an_engine_that_fails_is_exit_code_5_and_one_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = f"{FAKE}?fail=error&fail_at_step=3"
    code, out, err = call(capsys, "--lengths", "9/9", "--model", model, "--json")
    assert code == 5
    assert "the engine failed after 0 of 256 requests" in err
    assert json.loads(out)["error"]["exit_code"] == 5


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU; the path of its lock."""
    monkeypatch.setattr("thothy_batch.engine.core.config.find_gpu", lambda: GPU)
    monkeypatch.setattr("thothy_batch.runner.session.locking.find_gpu", lambda: GPU)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"thothy-batch-{GPU.uuid}.lock"


def test_a_gpu_held_by_a_run_is_exit_code_3(gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = holder_of("r-night", Path("night.yaml"), datetime.now().astimezone())
    with device_locked("cuda", holder, IfLocked(), print):
        code, out, err = call(capsys, "--lengths", "8/4", "--requests", 2, "--json")
        on_cpu, _, _ = call(capsys, "--lengths", "8/4", "--requests", 2, "--device", "cpu")
    assert (code, on_cpu) == (3, 0)
    assert json.loads(out)["error"]["exit_code"] == 3
    for words in (f"process {os.getpid()}", "run r-night", "manifest night.yaml"):
        assert words in err
    assert "--if-locked" not in err, "it has no such option"


@pytest.mark.parametrize(("device", "holds"), [("cuda", "bench"), ("cpu", None)])
def test_a_gpu_is_held_while_it_computes(
    gpu: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    holds: str | None,
) -> None:
    seen = []

    def computing(*args: Any, **options: Any) -> Any:
        holder = read_holder(gpu)
        seen.append(None if holder is None else holder.run_id)
        raise EngineError("enough")

    monkeypatch.setattr(measure, "PeakMemory", computing)  # first thing under the lock
    code, _, _ = call(capsys, "--lengths", "8/4", "--device", device)
    assert (code, seen) == (5, [holds])
    assert read_holder(gpu) is None


def interrupted(home: Path, phase: str, *words: str) -> tuple[int, str, str]:
    """Run a command and interrupt it in a phase."""
    with subprocess.Popen(
        [sys.executable, "-m", "thothy_batch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"XDG_CACHE_HOME": str(home), "THOTHY_FAULTS": f"doctor.measure=hold:{home / 'never'}"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        err = ""
        for line in process.stderr:
            err += line
            if phase in line:
                process.send_signal(signal.SIGINT)
                break
        out, rest = process.communicate(timeout=900)
    return process.returncode, out, err + rest


@pytest.mark.rest
@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("computing", f"bench --model {FAKE}?step_ms=3600000 --lengths 9/900"),
        ("measuring the device", "doctor"),
    ],
)
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_interrupt_is_reported_and_leaves_one_document(
    tmp_path: Path, phase: str, words: str, option: tuple[str, ...]
) -> None:
    code, out, err = interrupted(tmp_path, phase, *words.split(), *option)
    assert code == 4
    message = f"interrupted by SIGINT: thothy-batch {words.split()[0]} had not finished"
    assert message in err.splitlines()
    assert "Traceback" not in err
    if option:
        error = json.loads(out)["error"]
        assert (error["message"], error["exit_code"]) == (message, 4)
    else:
        assert out == ""
