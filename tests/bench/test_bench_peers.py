"""The comparison with other engines: whose turn it is, what counts, what is written down."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FOLDER = Path(__file__).resolve().parent
REQUESTS = [([1, 2, 3], 4), ([5, 6], 3)]
# In place of an environment's Python: notes its call, then says what a peer's script says.
FAKE = """#!/bin/sh
echo {name} "$2" "$3" >> {calls}
echo a line that is no figure
echo '{{"engine": "{name}", "requests": 2, "prompt_tokens": 5, "output_tokens": {tokens}, \
"wall_s": 2.0, "version": "1.2"}}'
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """The command with our fake model and peers of which each gives so many tokens: its exit code,
    its document and what it said meanwhile."""
    columns = dict(
        zip(("prompt_token_ids", "max_tokens"), zip(*REQUESTS, strict=True), strict=True)
    )
    for seed in (1, 2):
        pq.write_table(pa.table(columns), tmp_path / f"mix-{seed}.parquet")
    for script in ("vllm_cpu.py", "openvino_cb.py"):
        (tmp_path / script).touch()
    (tmp_path / "ov").mkdir()

    def run(*options: str, **tokens: int) -> tuple[int, dict[str, Any], str]:
        for name, number in tokens.items():
            python = tmp_path / "peers" / name / "bin/python"
            python.parent.mkdir(parents=True)
            python.write_text(FAKE.format(name=name, tokens=number, calls=tmp_path / "calls"))
            python.chmod(0o755)
        command = [sys.executable, str(FOLDER / "bench_peers.py"), "--model", "builtin:fake"]
        command += ["--peers", str(tmp_path / "peers"), "--work", str(tmp_path)]
        command += ["--scripts", str(tmp_path), *options, "--out", str(tmp_path / "out.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        document = json.loads(done.stdout.splitlines()[-1])
        assert json.loads((tmp_path / "out.json").read_text()) == document
        return done.returncode, document, done.stderr

    return run


@pytest.mark.rest
def test_engines_take_turns_and_ratios_are_of_one_round(
    compare: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    code, document, _ = compare("--rounds", "2", "--workloads", "mix:1", "mix:2", vllm=7, ov=7)
    assert code == 0
    assert [(run["round"], run["workload"], run["engine"]) for run in document["runs"]] == [
        (number, workload, engine)
        for number in (1, 2)
        for workload in ("mix:1", "mix:2")
        for engine in ("ours", "vllm", "ov")
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    work = f"{tmp_path}/mix-1.parquet {tmp_path}"
    assert calls[:2] == [f"vllm {work}/qwen3-0.6b", f"ov {work}/ov"]
    ours, vllm = (document["figures"]["mix:1"][name] for name in ("ours", "vllm"))
    assert vllm["seconds"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert vllm["output_tokens_per_s"]["median"] == 3.5
    assert vllm["ratio"]["max"] == pytest.approx(2.0 / ours["seconds"]["min"], rel=1e-4)
    assert ours["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert ours["peak_memory_bytes"] > 1 << 20
    assert document["workloads"]["mix:2"] == {
        "requests": 2,
        "prompt_tokens": 5,
        "output_tokens": 7,
    }
    assert str(tmp_path) not in json.dumps(document), "paths are nobody's business"


@pytest.mark.rest
def test_a_run_with_too_few_tokens_is_refused(
    compare: Callable[..., tuple[int, dict[str, Any], str]],
) -> None:
    options = ("--rounds", "1", "--workloads", "mix:1", "--only", "ours,vllm,ov")
    code, document, said = compare(*options, vllm=6)
    assert code == 1
    assert document["runs"][1]["invalid"] == "6 output_tokens, 7 were asked for"
    assert set(document["figures"]["mix:1"]) == {"ours"}
    assert "ov is left out: --peers has no ov/bin/python" in said


@pytest.mark.rest
def test_variants_of_ours_are_engines_of_their_own(
    compare: Callable[..., tuple[int, dict[str, Any], str]],
) -> None:
    variants = ("default", "one=--max-seqs 1")
    more = ("--rounds", "1", "--workloads", "mix:1", "--old", str(FOLDER.parents[1]))
    code, document, _ = compare("--only", "ours,old", *more, "--ours", *variants)
    assert code == 0
    assert [run["engine"] for run in document["runs"]] == ["ours", "ours-one", "old"]
    assert [run["settings"]["max_seqs"] for run in document["runs"]] == [256, 1, 256]


def test_spreads_and_ratios_are_medians_of_rounds() -> None:
    from side_by_side import compared

    def run(number: int, engine: str, seconds: float) -> dict[str, Any]:
        at = {"round": number, "workload": "mix:1", "engine": engine}
        return at | {"seconds": seconds, "output_tokens": 60, "peak_memory_bytes": number}

    runs = [run(number, "ours", seconds) for number, seconds in enumerate((1.0, 2.0, 4.0), 1)]
    runs += [run(number, "ov", seconds) for number, seconds in enumerate((3.0, 2.0, 6.0), 1)]
    # Without a partner in its round: its seconds count, a ratio it has none.
    runs += [run(4, "ov", 100.0), run(4, "ours", 1.0) | {"invalid": "killed"}]
    found = compared(runs, "ours")["mix:1"]["ov"]
    assert found["ratio"] == {"median": 1.5, "min": 1.0, "max": 3.0}
    assert found["seconds"] == {"median": 4.5, "min": 2.0, "max": 100.0}
    assert found["peak_memory_bytes"] == 4


@pytest.mark.rest
def test_memory_of_children_counts_and_nothing_is_left_running() -> None:
    import psutil
    from watched import run_watched

    child = "import time; held = bytearray(90_000_000); print('up', flush=True); time.sleep(3600)"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid); import time; time.sleep(3)\n"
    )
    ran = run_watched([sys.executable, "-c", parent], {})
    assert ran.code == 0
    assert ran.peak_bytes > 90_000_000
    with contextlib.suppress(psutil.NoSuchProcess):
        child_process = psutil.Process(int(ran.output))
        # It is killed, and takes a moment to die; nobody may be there to bury it.
        while child_process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)


def test_a_run_is_killed_after_its_time() -> None:
    from watched import run_watched

    ran = run_watched([sys.executable, "-c", "import time; time.sleep(3600)"], {}, timeout_s=0.5)
    assert ran.code is None


def test_environments_are_set_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peer_setup

    calls: list[list[str]] = []

    def call(*command: object) -> None:
        calls.append([str(part) for part in command])
        tmp_path.joinpath("vllm").mkdir(exist_ok=True)

    monkeypatch.setattr(peer_setup, "call", call)
    for _ in range(2):
        peer_setup.set_up(tmp_path / "vllm", peer_setup.RECIPES["vllm"], "python3.11")
    assert len(calls) == 4
    assert calls[0] == ["python3.11", "-m", "venv", str(tmp_path / "vllm")]
    assert [command[4] for command in calls[1:]] == ["install", "install", "uninstall"]
    assert calls[1][-1].startswith("torch==")
