"""A night of 200,000 requests: identities, order and sharing within their time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, so that its peak of memory is its own.
SCRIPT = """\
import json, random, resource, time
from array import array
from thothy_batch.plan import chain_prompts, request_stats, plan_requests
from thothy_batch.plan import request_key, sharing_stats
from thothy_batch.records import Request, Sampling

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rng = random.Random(0)
head = [rng.randrange(4000) for _ in range(60)]
samplings = [Sampling(max_tokens=n) for n in (160, 48, 512, 400)]
requests = []
for i in range(200_000):
    if i % 4 == 0:
        document = [rng.randrange(4000) for _ in range(70)]
    ids = array("i", head + document + [i % 4] * 40)
    requests.append(Request(i, "", ids, samplings[i % 4]))
before_mb, begin = peak_mb(), time.process_time()
keys = [
    request_key(
        model_fingerprint="m", prompt_token_ids=r.prompt_token_ids, sampling=r.sampling,
        num_samples=1, kind_hash="k",
    )
    for r in requests
]
prompts = [r.prompt_token_ids for r in requests]
chains = chain_prompts(prompts, 32)
order = plan_requests(requests, "auto", chains=chains).order
stats = request_stats(requests, sharing=sharing_stats(prompts, chains=chains))
print(json.dumps({
    "seconds": time.process_time() - begin, "mb": peak_mb() - before_mb,
    "keys": len(set(keys)), "order": len(set(order)), "groups": stats.sharing.max_readers,
}))
"""


@pytest.mark.slow
def test_200000_requests_are_planned_within_12_s_and_400_mb() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["keys"] == figures["order"] == figures["groups"] == 200_000
    assert figures["seconds"] < 12, figures
    assert figures["mb"] < 400, figures
