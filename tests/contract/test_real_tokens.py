"""Real weights and a real tokenizer: 260 thousand parameters that write small stories."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.rest

JOBS = """
output: {token_ids: true}
jobs:
  - name: prompts
    kind: raw
    input: rows.parquet
    sampling: {max_tokens: 20}
  - name: ids
    kind: raw
    input: ids.parquet
    sampling: {max_tokens: 20}
"""


def goldens(shared: Path) -> list[dict[str, Any]]:
    lines = (shared / "data/weights/stories260K/golden_greedy.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:6]]


def test_raw_artifacts_are_the_decoded_greedy_tokens(folder: Any, shared: Path) -> None:
    weights = shared / "data/weights/stories260K"
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(weights / "tokenizer.json"))
    prompts = ["Once upon a time", "Lily and Tom", "The red ball"]
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    folder.parquet("rows.parquet", {"id": prompts, "prompt": prompts})
    folder.parquet("ids.parquet", {"id": prompts, "prompt_token_ids": encoded})
    folder.manifest(JOBS, model=str(weights))
    assert folder.run().code == 0
    rows = folder.sql("""
        select item_id, text, prompt_tokens, output_tokens, output_token_ids
        from artifacts where job = 'prompts' order by item_id""")
    assert len(rows) == 3
    for prompt, text, prompt_tokens, output_tokens, ids in rows:
        assert prompt_tokens == len(encoded[prompts.index(prompt)])
        assert output_tokens == len(ids) == 20
        assert text.strip() == tokenizer.decode(ids, skip_special_tokens=True).strip()
    # The same ids given as ids are the same requests.
    assert folder.last_run()["num_done"] == 3
    assert folder.last_run()["num_reused"] == 3
    model, engine = (json.loads(folder.last_run()[name]) for name in ("model", "engine"))
    assert model
    assert engine["impl"] != "auto"


def test_golden_tokens_come_out_of_a_night_whatever_the_pool(folder: Any, shared: Path) -> None:
    rows = goldens(shared)
    prompt_key = next(k for k in rows[0] if "prompt" in k and isinstance(rows[0][k], list))
    output_key = next(k for k in rows[0] if k != prompt_key and isinstance(rows[0][k], list))
    longest = max(len(row[output_key]) for row in rows)
    folder.parquet(
        "rows.parquet",
        {
            "id": list(range(len(rows))),
            "prompt_token_ids": [row[prompt_key] for row in rows],
            "max_tokens": [len(row[output_key]) for row in rows],
        },
    )
    blocks = 2 * (longest + max(len(row[prompt_key]) for row in rows)) // 16 + 2
    folder.manifest(
        f"""
        engine: {{block_size: 16, num_blocks: {blocks}, admission: optimistic,
          max_step_tokens: 32}}
        output: {{token_ids: true}}
        jobs:
          - {{name: golden, kind: raw, input: rows.parquet, sampling: {{ignore_eos: true}}}}
    """,
        model=str(shared / "data/weights/stories260K"),
    )
    outcome = folder.run()
    assert outcome.code == 0, outcome.stderr
    found = folder.sql("select output_token_ids from artifacts order by item_id::int")
    assert [ids for (ids,) in found] == [row[output_key] for row in rows]


def test_random_weights_need_only_the_config(folder: Any, shared: Path) -> None:
    model = folder.path / "model"
    model.mkdir()
    shutil.copy(shared / "data/weights/stories260K/config.json", model)
    folder.parquet("ids.parquet", {"id": ["a"], "prompt_token_ids": [[1, 5, 9]]})
    folder.manifest(
        f"""
        model: {{id: "{model}", random_weights: true}}
        jobs:
          - {{name: r, kind: raw, input: ids.parquet,
             sampling: {{max_tokens: 6, ignore_eos: true}}}}
    """,
        model=None,
    )
    outcome = folder.run()
    assert outcome.code == 0, outcome.stderr
    assert folder.one("select output_tokens from artifacts") == 6
