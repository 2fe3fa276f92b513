"""The orders of the night against each other, and against the time that no order can beat.

    python tests/bench/bench_orders.py --out tests/bench/results/orders.json

Nights of the shared folder (`mix`, `fanout`) and of traces on two simulated devices, with an ample
pool and with two that hold few requests at a time; all orders share beginnings (fifo and length
look for equal blocks, as the engine does for what is not planned), `fifo, off` shares nothing.
Lengths are exact, or guessed: then admission goes by each kind's 90th percentile. Makespans are
seconds of the simulated device over `unavoidable_s` of the same night; the last line is JSON.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
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
    provenance,
    trace_lengths,
)

from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.cost_model import CostModel, Speed
from thothy_batch.engine.prediction import request_costs
from thothy_batch.engine.roofline import unavoidable_s
from thothy_batch.engine.simulation import Simulated, Simulation
from thothy_batch.plan import Chains, RequestPlan, chain_prompts, plan_requests
from thothy_batch.records import Request, Sampling, TokenIds

WORKLOAD = ROOT.parent / "shared/bench/workload.py"
ORDERS = ("fifo, off", "fifo", "length", "prefix", "auto")
NIGHTS = ("mix-48", "fanout-48", "mix-870", "fanout-2000", "conv+code-2000")
POOLS = {"ample": None, "32": 32, "8": 8}  # average requests that the pool holds
LENGTHS = ("exact", "guessed")
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
    chains: Chains


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
    speed = Speed(
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
    if shape == "conv+code":
        half = int(num) // 2
        rng, rows = np.random.default_rng(seed), []
        for kind in ("conv", "code"):
            lens = zip(*trace_lengths(f"azure2023_{kind}", half, seed), strict=True)
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
            Sampling(max_tokens=output if exact else MOST.get(kind, 2000), ignore_eos=exact),
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


def plan_of(order: str, night: Night, config: EngineConfig, **more: object) -> RequestPlan:
    expected = [r.expected_tokens or r.sampling.max_tokens for r in night.requests]
    return plan_requests(
        night.requests,
        order.partition(",")[0],
        sharing=config.prefix_sharing,
        expected=expected,
        pool_tokens=config.pool_tokens,
        chains=night.chains,
        **more,
    )


def simulate(
    night: Night, plan: RequestPlan, config: EngineConfig, device: Device, order: str
) -> tuple[Simulated, list[float]]:
    """What the night comes to, and when its requests end."""
    simulation = Simulation(
        config, device.cost, output_len=lambda request, _: night.outputs[request.request_id]
    )
    ends: list[float] = []
    simulation.finished_s = lambda seq, seconds: ends.append(seconds)
    result = simulation.run(plan.apply(night.requests))
    assert result.num_requests == len(ends) == len(night.requests), "a request was lost"
    assert result.output_tokens == sum(night.outputs)
    promised = plan.computed_prompt_tokens
    # A held prefix may have to make way where a request takes nearly all of the pool.
    if promised is not None and not result.num_preempted:
        assert result.prefill_tokens == promised, f"{order}: {result} promised {promised}"
    return result, ends


def run_case(job: tuple[Case, Path]) -> dict[str, object]:
    """Makespans of all orders, in seconds; those of `auto` in a hurry too."""
    case, folder = job
    night, device = night_of(case, folder), device_of(case.device)
    config = config_of(case, night, device)
    seconds, computed, all_ends = {}, {}, {}
    for order in ORDERS:
        used = replace(config, prefix_sharing="off" not in order)
        plan = plan_of(order, night, used)
        result, all_ends[order] = simulate(night, plan, used, device, order)
        seconds[order], computed[order] = result.seconds, result.prefill_tokens
    lens = [len(r.prompt_token_ids) for r in night.requests]
    lower = unavoidable_s(
        zip(lens, ([n] for n in night.outputs), plan.content, strict=True),
        device.cost.work,
        device.flops,
        device.bandwidth,
    )
    half = seconds["auto"] / 2
    expected = {r.request_id: r.expected_tokens or o for r, o in zip(night.requests, night.outputs, strict=True)}
    costs = request_costs(device.cost.work, device.cost.speed, night.requests, expected)
    costs = [cost * seconds["auto"] / sum(costs) for cost in costs]
    hurried = plan_of("auto", night, config, costs=costs, time_left_s=half)
    all_ends["auto, hurried"] = simulate(night, hurried, config, device, "auto")[1]
    in_half = {order: sum(end <= half for end in ends) for order, ends in all_ends.items()}
    names = {name: getattr(case, name) for name in Case.__slots__}
    return names | {
        "seconds": seconds, "prefill_tokens": computed, "unavoidable_s": lower,
        "finished_in_half": in_half, "num_requests": len(lens), "pool_blocks": config.num_blocks,
    }  # fmt: skip


def table(cases: list[dict]) -> str:
    """Makespans over the unavoidable time, means over seeds, and what the seeds' worst says."""
    lines = [
        "| night | device | pool | lengths | " + " | ".join(ORDERS) + " | auto / best other |",
        "|" + "---|" * (len(ORDERS) + 5),
    ]
    names = ("night", "device", "pool", "lengths", "by_priority")
    for key, group in itertools.groupby(cases, lambda case: tuple(case[n] for n in names)):
        same = list(group)
        over = [
            statistics.mean(case["seconds"][order] / case["unavoidable_s"] for case in same)
            for order in ORDERS
        ]
        ratios = [against_best(case) for case in same]
        night = key[0] + (", priorities" if key[4] else "")
        lines.append(
            f"| {night} | {key[1]} | {key[2]} | {key[3]} | "
            + " | ".join(f"{value:.3f}" for value in over)
            + f" | {statistics.mean(ratios):.3f} ({max(ratios):.3f}) |"
        )
    return "\n".join(lines)


def against_best(case: dict) -> float:
    """Makespan of `auto` over the best of the others that share as well."""
    seconds = case["seconds"]
    return seconds["auto"] / min(seconds[order] for order in ORDERS if order != "auto")


def in_a_hurry(case: dict) -> float:
    """Requests that `auto` ends in half the makespan, where it knows, over the best of others."""
    ended = case["finished_in_half"]
    return ended["auto, hurried"] / max(1, *(ended[order] for order in ORDERS))


def summary(cases: list[dict]) -> dict[str, object]:
    ratios, hurried = [against_best(case) for case in cases], [in_a_hurry(case) for case in cases]
    over_off = [case["seconds"]["fifo, off"] / case["seconds"]["auto"] for case in cases]
    return {
        "num_cases": len(cases),
        "auto_over_best_other": round(statistics.mean(ratios), 4),
        "auto_over_best_other_worst": round(max(ratios), 4),
        "num_worse_by_2_percent": sum(ratio > 1.02 for ratio in ratios),
        "fifo_off_over_auto": round(statistics.mean(over_off), 4),
        "hurried_ends_over_best_other": round(statistics.mean(hurried), 4),
        "hurried_ends_over_best_other_worst": round(min(hurried), 4),
    }


def all_cases(args: argparse.Namespace) -> list[Case]:
    made = itertools.product(
        args.nights, args.devices, args.pools, args.lengths, (False, True), range(1, args.seeds + 1)
    )
    return [
        case
        for case in itertools.starmap(Case, made)
        # Large nights are as good as several; those of traces have no kinds.
        if (case.night.endswith("-48") or case.seed <= args.large_seeds)
        and not (case.by_priority and case.night.startswith("conv"))
    ]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--nights", nargs="+", default=NIGHTS)
    ap.add_argument("--devices", nargs="+", default=("CPU", "H200"))
    ap.add_argument("--pools", nargs="+", default=tuple(POOLS), choices=POOLS)
    ap.add_argument("--lengths", nargs="+", default=LENGTHS, choices=LENGTHS)
    ap.add_argument("--seeds", type=int, default=5, help="1 to this, of nights of 48")
    ap.add_argument("--large-seeds", type=int, default=2, help="the same of larger nights")
    ap.add_argument("--processes", type=int, default=2)
    ap.add_argument("--folder", type=Path, help="keeps the nights' files between calls")
    ap.add_argument("--out", type=Path, help="write the JSON here as well, every case in it")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory(prefix="thothy-bench-") as name:
        folder = args.folder or Path(name)
        for night, seed in sorted({(case.night, case.seed) for case in all_cases(args)}):
            rows_of(night, seed, folder)
        jobs = [(case, folder) for case in all_cases(args)]
        with ProcessPoolExecutor(args.processes) as pool:
            cases = list(pool.map(run_case, jobs, chunksize=4))
    print(table(cases))
    report = summary(cases) | provenance()
    if args.out:
        written = json.dumps(report | {"cases": cases}, indent=1)
        args.out.write_text(written + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
