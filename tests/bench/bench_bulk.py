"""The number of prompt tokens that a step should wait for, from simulated runs step by step.

    python tests/bench/bench_bulk.py

The device is a roofline (80 % of an H200's measured rates); a step with prompts is launched kernel
by kernel, and LAUNCH_S of the host are added for each; other steps are replayed. No speed is
measured here: seconds are what the cost model says. The last line is JSON.
"""

import json
from dataclasses import replace
from random import Random

from provenance import short_commit

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.simulation.simulator import Simulator
from thothy_batch.records import LayerGroup, Request, Sampling

FLOPS, BANDWIDTH = 790e12, 4.3e12
LAUNCH_S = {"qwen3-0.6b": 0.010, "llama-3.1-8b": 0.012}  # 28 and 32 layers, 12 launches each
MODELS = {
    "qwen3-0.6b": ModelWork(440_466_432, 155_582_464, 2, 16, 128, (GroupWork(28, None, 114_688),)),
    "llama-3.1-8b": ModelWork(
        6_979_588_096, 525_336_576, 2, 32, 128, (GroupWork(32, None, 131_072),)
    ),
}
WORKLOADS = {
    "100-1024/100-1024": ((100, 1024), (100, 1024)),
    "778/128": ((778, 778), (128, 128)),
    "2048/128": ((2048, 2048), (128, 128)),
    "64-128/256": ((64, 128), (256, 256)),
}
NUM_REQUESTS = 3000
BULKS = (0, 512, 1024, 2048, 4096, 8192)


def requests_of(prompts: tuple[int, int], outputs: tuple[int, int]) -> list[Request]:
    random = Random(1)
    return [
        Request(
            number,
            "",
            range(random.randint(*prompts)),
            Sampling(max_tokens=random.randint(*outputs), ignore_eos=True),
            prefixes=(),
        )
        for number in range(NUM_REQUESTS)
    ]


def config_of(work: ModelWork) -> EngineConfig:
    pool_bytes = 100 << 30
    num_blocks = pool_bytes // (32 * work.groups[0].kv_bytes_per_token)
    return EngineConfig(
        device="cuda",
        impl="triton",
        dtype="bfloat16",
        layout=KVLayout((LayerGroup(tuple(range(work.groups[0].num_layers))),), 32),
        num_blocks=num_blocks,
        max_seqs=1024,
        max_step_tokens=8192,
        max_model_len=8192,
        admission="reserve",
        prefix_sharing=False,
    )


def main() -> None:
    cases = []
    for model, work in MODELS.items():
        cost = CostModel(work, StepSpeed.from_roofline(FLOPS, BANDWIDTH, work, efficiency=0.8))
        for workload, lengths in WORKLOADS.items():
            seconds: dict[int, float] = {}
            for bulk in BULKS:
                config = replace(config_of(work), bulk_tokens=bulk)
                found = Simulator(config, cost).run(requests_of(*lengths))
                launches = found.num_prompt_steps * LAUNCH_S[model]
                seconds[bulk] = found.seconds + launches
                cases.append(
                    {
                        "model": model,
                        "workload": workload,
                        "bulk_tokens": bulk,
                        "device_s": round(found.seconds, 2),
                        "prompt_steps": found.num_prompt_steps,
                        "steps": found.num_steps,
                        "seconds": round(seconds[bulk], 2),
                    }
                )
            text = ", ".join(f"{bulk}: {seconds[bulk]:.1f} s" for bulk in BULKS)
            print(f"{model} {workload}: {text}", flush=True)
    print(json.dumps({"benchmark": "bench_bulk", "commit": short_commit(), "cases": cases}))


if __name__ == "__main__":
    main()
