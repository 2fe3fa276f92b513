"""Seconds and memory of planning a night: request keys, chains, order and statistics.

    python tests/bench/bench_planning.py              # 200,000 requests
    python tests/bench/bench_planning.py --requests 20000

Documents of 170 tokens with four questions each, behind one head. The last line is JSON.
"""

import argparse
import json
import random
import resource
import time
from array import array
from typing import Any

from thothy_batch.plan import (
    chain_prompts,
    plan_requests,
    request_key,
    request_stats,
    sharing_stats,
)
from thothy_batch.records import Request, Sampling

SAMPLINGS = [Sampling(max_tokens=num) for num in (160, 48, 512, 400)]


def made_up(num: int) -> list[Request]:
    rng = random.Random(0)
    head = [rng.randrange(4000) for _ in range(60)]
    requests = []
    for i in range(num):
        if i % 4 == 0:
            document = [rng.randrange(4000) for _ in range(70)]
        ids = array("i", head + document + [i % 4] * 40)
        requests.append(Request(i, "", ids, SAMPLINGS[i % 4]))
    return requests


def planned(requests: list[Request]) -> dict[str, Any]:
    """Count keys, positions in the order, and readers of the longest shared prefix."""
    keys = {
        request_key(
            model_fingerprint="m",
            prompt_token_ids=request.prompt_token_ids,
            sampling=request.sampling,
            num_samples=1,
            kind_hash="k",
        )
        for request in requests
    }
    prompts = [request.prompt_token_ids for request in requests]
    chains = chain_prompts(prompts, 32)
    order = plan_requests(requests, "auto", chains=chains).order
    stats = request_stats(requests, sharing=sharing_stats(prompts, chains=chains))
    return {"keys": len(keys), "order": len(set(order)), "groups": stats.sharing.max_readers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000)
    requests = made_up(parser.parse_args().requests)
    before_mb, began = peak_mb(), time.process_time()
    found = planned(requests)
    seconds = time.process_time() - began
    print(json.dumps({"seconds": round(seconds, 2), "mb": peak_mb() - before_mb, **found}))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
