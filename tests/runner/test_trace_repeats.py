"""Prompts of a real batch job that repeat earlier ones are not computed again.

The excerpt of the job holds no prompt twice (each of its rows has a block that none before it has),
while of the whole job nine in ten do: so its rows are asked at that rate.
"""

from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

NAME = "servegen_offline_b_text_generation_sample"
TIMES = 10


@pytest.mark.rest
def test_repeats_of_the_text_generation_job_are_computed_once(project: Any, shared: Path) -> None:
    rows = pq.read_table(shared / f"data/traces/{NAME}.parquet").to_pylist()
    once = [" ".join(map(str, row["hash_ids"])) for row in rows]
    assert len(set(once)) == len(once)
    prompts = once * TIMES
    Random(4).shuffle(prompts)
    project.rows("rows.parquet", id=list(range(len(prompts))), prompt=prompts)
    project.jobs("name: b, kind: raw, input: rows.parquet, sampling: {max_tokens: 12}")
    summary = project.run()
    assert summary.counts["num_done"] == len(once)
    assert summary.counts["num_reused"] == len(prompts) - len(once)
    found = project.query("select item_id, text, reused_from from artifacts")
    texts: dict[str, set[str]] = {prompt: set() for prompt in once}
    for item_id, text, _ in found:
        texts[prompts[int(item_id)]].add(text)
    assert all(len(copies) == 1 for copies in texts.values())
    assert sum(source is not None for *_, source in found) == len(prompts) - len(once)
    ((prompt_tokens,),) = project.query("select prompt_tokens from runs")
    assert prompt_tokens == sum(map(len, once))
