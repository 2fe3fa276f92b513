"""Workloads on the fake model, run by `bench` and by `run_bench`."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.bench.figures import BenchFigures
from thothy_batch.bench.measure import run_bench
from thothy_batch.bench.workload import Workload
from thothy_batch.cli.main import main
from thothy_batch.records import EngineSpec, ModelSpec

FAKE = "builtin:fake"
VOCAB = 256  # of the fake


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Run the command in this process, on the fake model."""
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
