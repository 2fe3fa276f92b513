"""The orders of the night against each other, and against the time that the work needs anyway.

    python tests/bench/bench_orders.py --out tests/bench/results/orders.json

Nights of the shared folder (`mix`, `fanout`) and of traces on two simulated devices, with an ample
pool and with two that hold few requests at a time; all orders share beginnings (fifo and length
look for equal blocks, as the engine does for what is not planned), `fifo, off` shares nothing.
Lengths are exact, or guessed: then admission goes by each kind's 90th percentile. Makespans are
seconds of the simulated device over `roofline_s` of the same night; the last line is JSON.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench_simulation import provenance
from nights import POOLS, Case, Device, Night, config_of, device_of, night_of, rows_of

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.cost.roofline import roofline_s
from thothy_batch.engine.simulation.prediction import request_costs
from thothy_batch.engine.simulation.simulator import Simulated, Simulator
from thothy_batch.plan import RequestPlan, plan_requests

ORDERS = ("fifo, off", "fifo", "length", "prefix", "auto")
NIGHTS = ("mix-48", "fanout-48", "mix-870", "fanout-2000", "conv+code-2000", "arxiv+reason-600")
LENGTHS = ("exact", "guessed")


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
    """The length of the night, and the times at which its requests end."""
    ends: list[float] = []
    simulator = Simulator(
        config,
        device.cost,
        output_len=lambda request, _: night.outputs[request.request_id],
        on_finished=lambda seq, seconds: ends.append(seconds),
    )
    result = simulator.run(plan.apply(night.requests))
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
        seconds[order], computed[order] = round(result.seconds, 4), result.prefill_tokens
    lens = [len(r.prompt_token_ids) for r in night.requests]
    lower = roofline_s(
        zip(lens, ([n] for n in night.outputs), plan.content, strict=True),
        device.cost.work,
        device.flops,
        device.bandwidth,
    )
    half = seconds["auto"] / 2
    expected = {
        r.request_id: r.expected_tokens or o
        for r, o in zip(night.requests, night.outputs, strict=True)
    }
    costs = request_costs(device.cost.work, device.cost.speed, night.requests, expected)
    costs = [cost * seconds["auto"] / sum(costs) for cost in costs]
    hurried = plan_of("auto", night, config, costs=costs, time_left_s=half)
    all_ends["auto, hurried"] = simulate(night, hurried, config, device, "auto")[1]
    in_half = {order: sum(end <= half for end in ends) for order, ends in all_ends.items()}
    names = {name: getattr(case, name) for name in Case.__slots__}
    return names | {
        "seconds": seconds, "prefill_tokens": computed, "roofline_s": round(lower, 4),
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
            statistics.mean(case["seconds"][order] / case["roofline_s"] for case in same)
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
    most = max(ended[order] for order in ORDERS)
    return ended["auto, hurried"] / most if most else 1.0


def summary(cases: list[dict]) -> dict[str, object]:
    ratios, hurried = [against_best(case) for case in cases], [in_a_hurry(case) for case in cases]
    over_off = [case["seconds"]["fifo, off"] / case["seconds"]["auto"] for case in cases]
    return {
        "num_cases": len(cases),
        "auto_over_best_other": round(statistics.mean(ratios), 4),
        "auto_over_best_other_worst": round(max(ratios), 4),
        "num_worse_by_2_percent": sum(ratio > 1.02 for ratio in ratios),
        "num_worse_by_2_percent_exact": sum(
            ratio > 1.02
            for ratio, case in zip(ratios, cases, strict=True)
            if case["lengths"] == "exact" and not case["by_priority"]
        ),
        "fifo_off_over_auto": round(statistics.mean(over_off), 4),
        "hurried_ends_over_best_other": round(statistics.mean(hurried), 4),
        "num_hurried_behind": sum(ratio < 1 for ratio in hurried),
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
        and not (case.by_priority and "+" in case.night)
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
        lines = ",\n  ".join(map(json.dumps, cases))
        head = json.dumps(report, indent=1).removesuffix("\n}")
        args.out.write_text(f'{head},\n "cases": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
