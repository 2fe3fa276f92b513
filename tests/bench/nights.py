"""Nights for benchmarks of the planner: real prompts or lengths, and a simulated device each.

A night is named after its workload and size: `mix-48`, `fanout-2000` (of the shared folder), or
`conv+code-2000`: half of the requests from each of two traces, with random tokens.
"""

import math
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench_simulation import (
    BLOCK_SIZE,
    EFFICIENCY,
    H200_BANDWIDTH,
    H200_FLOPS,
    ROOT,
    WORKS,
    h200,
    trace_lengths,
)

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.cost.cost_model import CostModel, StepSpeed
from thothy_batch.plan import BlockHashes, chain_prompts
from thothy_batch.records import Request, Sampling, TokenIds

WORKLOAD = ROOT.parent / "shared/bench/workload.py"
TRACES = {
    "conv": "azure2023_conv",
    "code": "azure2023_code",
    "arxiv": "arxiv_summarization_lengths",
    "reason": "servegen_online_deepseek_r1_sampled",
}
POOLS = {"ample": None, "32": 32, "8": 8}  # average requests that the pool holds
# Most tokens that a kind may write, where lengths are guessed: those of workload.py.
MOST = {"summary": 160, "hook": 48, "translation": 320, "report": 400}
PRIORITIES = {"report": 9, "summary": 7, "hook": 5, "translation": 5}
# Qwen3-0.6B in bfloat16 on two cores, as measured: tokens a second of the body, by rows.
CPU_BODY = ((8, 205), (16, 298), (32, 304), (64, 426), (512, 470))
CPU_FLOPS, CPU_BANDWIDTH = 420e9, 31e9


@dataclass(frozen=True, slots=True)
class Night:
    requests: list[Request]
    outputs: list[int]  # tokens that will be made, by request_id
    chains: BlockHashes


@dataclass(frozen=True, slots=True)
class Case:
    night: str
    device: str
    pool: str
    lengths: str
    by_priority: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Device:
    config: EngineConfig
    cost: CostModel
    flops: float
    bandwidth: float


def device_of(name: str) -> Device:
    if name == "H200":
        config, cost = h200(WORKS["llama-3.1-8b"])
        return Device(config, cost, EFFICIENCY * H200_FLOPS, EFFICIENCY * H200_BANDWIDTH)
    work = WORKS["qwen3-0.6b"]
    head = work.head_parameters / work.body_parameters
    speed = StepSpeed(
        linears=tuple((rows, rows / rate) for rows, rate in CPU_BODY),
        head=tuple((rows, head * rows / rate) for rows, rate in CPU_BODY),
        kv_byte_s=1 / CPU_BANDWIDTH,
        pair_s=work.pair_flops / CPU_FLOPS,
        shared_pair_s=work.pair_flops / CPU_FLOPS,
    )
    config = replace(h200(work)[0], device="cpu", impl="cpu", max_seqs=256, max_step_tokens=2048)
    return Device(config, CostModel(work, speed), CPU_FLOPS, CPU_BANDWIDTH)


@lru_cache(maxsize=2)
def rows_of(name: str, seed: int, folder: Path) -> list[tuple[str, TokenIds, int]]:
    """Kind, prompt and output length of each request of a night."""
    shape, num = name.rsplit("-", 1)
    if "+" in shape:
        half = int(num) // 2
        rng, rows = np.random.default_rng(seed), []
        for kind in shape.split("+"):
            lens = zip(*trace_lengths(TRACES[kind], half, seed), strict=True)
            rows += [(kind, rng.integers(1000, 30_000, p, np.int32), o) for p, o in lens]
        return [rows[i] for i in rng.permutation(len(rows))]
    path = folder / f"{name}-{seed}.parquet"
    if not path.exists():
        command = [sys.executable, WORKLOAD, shape, "--n", num, "--seed", seed, "--out", path]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    table = pq.read_table(path).to_pydict()
    return list(zip(table["job"], table["prompt_token_ids"], table["max_tokens"], strict=True))


def night_of(case: Case, folder: Path) -> Night:
    rows = rows_of(case.night, case.seed, folder)
    by_kind: dict[str, list[int]] = {}
    for kind, _, output in rows:
        by_kind.setdefault(kind, []).append(output)
    high = {kind: int(np.percentile(n, 90, method="higher")) for kind, n in by_kind.items()}
    exact = case.lengths == "exact"
    requests = [
        Request(
            number,
            "",
            prompt,
            Sampling(
                max_tokens=output if exact else MOST.get(kind, max(by_kind[kind])), ignore_eos=exact
            ),
            priority=PRIORITIES.get(kind, 5) if case.by_priority else 5,
            expected_tokens=None if exact else high[kind],
        )
        for number, (kind, prompt, output) in enumerate(rows)
    ]
    prompts = [request.prompt_token_ids for request in requests]
    return Night(requests, [output for *_, output in rows], chain_prompts(prompts, BLOCK_SIZE))


def config_of(case: Case, night: Night, device: Device) -> EngineConfig:
    """The device's, with a pool of the case's size; it takes at least the largest request."""
    held = POOLS[case.pool]
    if held is None:
        return device.config
    needs = [len(r.prompt_token_ids) + r.sampling.max_tokens for r in night.requests]
    blocks = max(held * statistics.mean(needs), max(needs)) / BLOCK_SIZE + 4
    return replace(device.config, num_blocks=min(math.ceil(blocks), device.config.num_blocks))
