"""`bench` and the interface behind it: figures add up, requests are exact, nothing vanishes."""

import json
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from thothy_batch.bench import machine
from thothy_batch.bench.compute import compute
from thothy_batch.bench.figures import BenchFigures
from thothy_batch.bench.files import file_workload, raw_workload, trace_workload
from thothy_batch.bench.measure import run_bench
from thothy_batch.bench.workload import (
    Lengths,
    Workload,
    documents_workload,
    greedy,
    lengths_workload,
)
from thothy_batch.cli.main import main
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.speed import DeviceFigures, FigureCache, device_name
from thothy_batch.errors import EngineError, ManifestError
from thothy_batch.records import Completion, EngineSpec, FinishReason, ModelSpec, RequestResult

ROOT = Path(__file__).resolve().parents[2]
FAKE = "builtin:fake"
VOCAB = 256  # of the fake
TINY = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets in its own process is taken back."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")


@pytest.fixture
def tiny(tmp_path: Path) -> ModelSpec:
    """A model of random weights, on a device of which the limits are known already."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    flops = {"float32": 1e11, "bfloat16": 2e11}
    threads = torch.get_num_threads()
    figures = DeviceFigures(device_name(), threads, flops, 2e10, "2026-11-22T22:30:00+00:00")
    FigureCache().store_device(figures)
    return ModelSpec(str(tmp_path), random_weights=True)


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The command as from a shell, in this process, on the fake model."""
    with pytest.raises(SystemExit) as end:
        main(["bench", "--model", FAKE, *map(str, args)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


def run_fake(workload: Workload, model: str = FAKE, **spec: Any) -> BenchFigures:
    return run_bench(
        EngineSpec(ModelSpec(model), **spec),
        workload.requests,
        workload=workload.description,
        refused=workload.refused,
    )


def sums(workload: Workload) -> tuple[int, int]:
    """Prompt and output tokens of a workload."""
    prompts = sum(len(request.prompt_token_ids) for request in workload.requests)
    return prompts, sum(request.sampling.max_tokens for request in workload.requests)


def assert_adds_up(figures: BenchFigures, workload: Workload) -> None:
    assert (figures.prompt_tokens, figures.output_tokens) == sums(workload)
    assert figures.prefill_tokens + figures.cached_prompt_tokens == figures.prompt_tokens
    assert figures.num_done == len(workload.requests)
    assert figures.num_requests == figures.num_done + len(workload.refused)
    assert figures.wasted_tokens == figures.num_preempted == 0
    seconds = figures.engine_s
    assert figures.output_tokens_per_s == pytest.approx(figures.output_tokens / seconds)
    total = figures.prompt_tokens + figures.output_tokens
    assert figures.total_tokens_per_s == pytest.approx(total / seconds)
    assert figures.artifacts_per_hour == pytest.approx(3600 * figures.num_done / seconds)


def rows_file(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


# The command


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
        "row 7 (huge)": "no token id",
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


# Workloads


def test_lengths_lie_between_their_ends_and_go_by_the_seed() -> None:
    lengths = Lengths.parse("10-30/2-5")
    one, same, other = (
        lengths_workload(lengths, num_requests=200, vocab_size=VOCAB, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.requests != other.requests
    prompts = {len(request.prompt_token_ids) for request in one.requests}
    outputs = {request.sampling.max_tokens for request in one.requests}
    assert (min(prompts), max(prompts), outputs) == (10, 30, {2, 3, 4, 5})
    ids = {token for request in one.requests for token in request.prompt_token_ids}
    assert (min(ids), max(ids)) == (0, VOCAB - 1)
    assert all(request.sampling.ignore_eos for request in one.requests)
    assert_adds_up(run_fake(one), one)


def test_a_document_is_computed_once_for_all_its_artifacts() -> None:
    made = documents_workload(
        5, document_tokens=96, artifacts=4, lengths=Lengths.parse("8/6"), vocab_size=VOCAB
    )
    shared = run_fake(made)
    assert_adds_up(shared, made)
    assert shared.prefill_tokens == shared.planned_prompt_tokens == 5 * (96 + 4 * 8)
    alone = run_fake(made, prefix_sharing=False)
    assert_adds_up(alone, made)
    assert alone.cached_prompt_tokens == 0
    names = [request.request_key for request in made.requests]
    assert len(set(names)) == 20
    assert names != sorted(names), "documents come in random order"


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_trace_gives_its_lengths(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"trace.{ending}"
    if ending == "csv":
        path.write_text("at,prompt_tokens,output_tokens\n0,30,4\n1,7,\n2,12,9\n3,x,1\n")
    else:
        rows_file(path, prompt_tokens=[30, 7, 12, -1], output_tokens=[4, None, 9, 1])
    found = file_workload(path, vocab_size=VOCAB)
    assert sums(found) == (42, 13)
    assert [row.name for row in found.refused] == ["row 2", "row 4"]
    assert "output_tokens is null" in found.refused[0].message
    assert_adds_up(run_fake(found), found)
    assert sums(file_workload(path, vocab_size=VOCAB, limit=1)) == (30, 4)


def test_a_trace_shares_the_blocks_that_it_names(tmp_path: Path) -> None:
    path = rows_file(
        tmp_path / "trace.parquet",
        prompt_tokens=[70, 64, 33],
        output_tokens=[2, 2, 2],
        hash_ids=[[1, 2, 3], [1, 2], [1, 9]],
    )
    found = trace_workload(path, vocab_size=VOCAB)
    a, b, c = (list(request.prompt_token_ids) for request in found.requests)
    assert (len(a), len(b), len(c)) == (70, 64, 33)
    assert a[:64] == b
    assert a[:32] == c[:32]
    figures = run_fake(found)
    assert_adds_up(figures, found)
    # b's last token is computed whatever is shared, and with it its block.
    assert figures.prefill_tokens == 70 + 32 + 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "no column prompt_tokens and no column output_tokens, only text"),
        ({"prompt_token_ids": [[1]]}, "no column max_tokens"),
        ({"prompt_tokens": [4], "output_tokens": [None]}, "row 1: output_tokens is null"),
        ({"prompt_tokens": [], "output_tokens": []}, "no row that is a request"),
        (
            {"prompt_tokens": [70], "output_tokens": [1], "hash_ids": [[1, 2, 3, 4, 5, 6]]},
            "hash_ids do not name the blocks",
        ),
    ],
)
def test_a_file_without_requests_is_an_error(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    path = rows_file(tmp_path / "w.parquet", **columns)
    with pytest.raises(ManifestError, match=words):
        file_workload(path, vocab_size=VOCAB)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for name in ("w.parquet", "w.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe no table")
        with pytest.raises(ManifestError, match=f"{name} cannot be read as"):
            file_workload(tmp_path / name, vocab_size=VOCAB)


@pytest.mark.parametrize("name", ["azure2023_conv", "arxiv_summarization_lengths"])
def test_real_traces_give_their_lengths(shared: Path, name: str) -> None:
    path = shared / f"data/traces/{name}.parquet"
    rows = pq.read_table(path).slice(0, 12).to_pydict()
    found = trace_workload(path, vocab_size=VOCAB, limit=12)
    assert sums(found) == (sum(rows["prompt_tokens"]), sum(rows["output_tokens"]))
    figures = run_fake(found, model=f"{FAKE}?context=16000")
    assert_adds_up(figures, found)


def test_real_blocks_are_found_in_their_length(shared: Path) -> None:
    path = shared / "data/traces/mooncake_conversation.parquet"
    rows = pq.read_table(path).slice(0, 30).to_pylist()
    found = trace_workload(path, vocab_size=VOCAB, limit=30)
    prompts = [list(request.prompt_token_ids) for request in found.requests]
    assert [len(prompt) for prompt in prompts] == [row["prompt_tokens"] for row in rows]
    firsts = {row["hash_ids"][0] for row in rows}
    assert len({tuple(prompt[:512]) for prompt in prompts}) == len(firsts)


def test_a_workload_of_the_peers_is_read_as_it_is(tmp_path: Path) -> None:
    ids = pa.array([[5, 6, 7], [8]], pa.list_(pa.int32()))
    path = rows_file(tmp_path / "w.parquet", prompt_token_ids=ids, max_tokens=[4, 2])
    found = raw_workload(path)
    assert [request.prompt_token_ids for request in found.requests] == [
        array("i", [5, 6, 7]),
        array("i", [8]),
    ]
    assert_adds_up(run_fake(found), found)


# Measuring


def test_a_real_model_gets_its_share_of_the_roofline(tiny: ModelSpec) -> None:
    made = documents_workload(
        3, document_tokens=64, artifacts=3, lengths=Lengths.parse("5/4-8"), vocab_size=96
    )
    figures = run_bench(EngineSpec(tiny), made.requests, seed=4)
    assert_adds_up(figures, made)
    assert figures.roofline_fraction is not None
    assert 0 < figures.roofline_fraction < 1
    assert (figures.device_name, figures.impl, figures.seed) == (device_name(), "cpu", 4)
    assert figures.prefill_tokens == figures.planned_prompt_tokens == 3 * (64 + 3 * 5)
    json.dumps(figures.as_json(), allow_nan=False)


def test_another_number_of_tokens_than_asked_for_is_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = lengths_workload(Lengths.parse("9/5"), num_requests=2, vocab_size=VOCAB)
    taken = LLMEngine.take_update

    def short(engine: LLMEngine) -> Any:
        update = taken(engine)
        for number, result in enumerate(update.results):
            fewer = Completion(result.completions[0].token_ids[:-1], "", FinishReason.LENGTH)
            update.results[number] = RequestResult(
                result.request_id, (fewer,), result.prompt_tokens, 0, 4, 0, 0.0, 0.0
            )
        return update

    monkeypatch.setattr(LLMEngine, "take_update", short)
    with pytest.raises(EngineError, match="gave 4 tokens where 5 were asked for"):
        run_fake(made)


def test_a_request_that_never_ends_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLMEngine, "has_work", property(lambda engine: False))
    from thothy_batch.engine.assembly import build_engine

    engine, _ = build_engine(EngineSpec(ModelSpec(FAKE)), owns_process=False)
    with pytest.raises(EngineError, match="ended 0 of 1 requests"):
        compute(engine, [greedy(0, "one", [1, 2], 3)], lambda text: None)


def test_a_machine_without_duckdb_pydantic_typer_rich_and_pyarrow_can_run_it() -> None:
    code = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"duckdb", "pydantic", "typer", "rich", "yaml", "pyarrow"}:
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Refused())
from thothy_batch.bench.measure import run_bench
from thothy_batch.bench.files import trace_workload
from thothy_batch.bench.workload import Lengths, lengths_workload
from thothy_batch.records import EngineSpec, ModelSpec

assert "torch" not in sys.modules, "imports are free"
made = lengths_workload(Lengths.parse("9-20/4"), num_requests=5, vocab_size=256)
figures = run_bench(EngineSpec(ModelSpec("builtin:fake")), made.requests)
assert figures.output_tokens == 20
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# The machine


def test_the_commit_is_read_from_a_checkout(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\naaa refs/heads/other\nbbb refs/heads/main\n")
    assert machine.commit(tmp_path) == "bbb"
    (git / "refs/heads/main").write_text("ccc\n")
    assert machine.commit(tmp_path) == "ccc"
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/.git").write_text(f"gitdir: {git}/worktrees/w\n")
    (git / "worktrees/w").mkdir(parents=True)
    (git / "worktrees/w/commondir").write_text("../..\n")
    (git / "worktrees/w/HEAD").write_text("ref: refs/heads/main\n")
    assert machine.commit(tmp_path / "beside") == "ccc"
    (git / "HEAD").write_text("ddd\n")
    assert machine.commit(tmp_path) == "ddd"


def test_a_device_is_as_busy_as_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __init__(self) -> None:
            self.left = [100, 50, None, 0, 50, 100]

        def busy_percent(self) -> int | None:
            return self.left.pop() if self.left else 60

    with machine.BusyMeter("cpu") as meter:
        pass
    assert meter.fraction is None
    monkeypatch.setattr(machine._Nvml, "of_current_gpu", staticmethod(Driver))
    monkeypatch.setattr(machine, "_SAMPLE_EVERY_S", 0.001)
    with machine.BusyMeter("cuda") as meter:
        while len(meter._samples) < 10:
            pass
    assert meter.fraction == pytest.approx(0.6)


def test_peak_memory_is_that_of_the_time_since(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.PeakMemory("cpu").num_bytes()
    memory = machine.PeakMemory("cpu")
    data = bytearray(64 << 20)
    data[::4096] = b"x" * len(data[::4096])
    assert memory.num_bytes() > before + len(data) // 2


# The script for devices


def test_the_script_says_what_the_budget_left_out() -> None:
    command = [sys.executable, "tests/bench/bench_runs.py", "--dry-run", "--budget-s", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["runs"] == []
    assert {row["reason"] for row in document["not_run"]} == {"the budget is spent"}
    assert len(document["not_run"]) == 8
