"""Section 2: a job manifest that is itself a Parquet file."""

import json
from typing import Any

import pyarrow as pa
import pytest

NIGHT_ROWS = [
    {
        "job": "s",
        "kind": "summary",
        "id": "1",
        "text": "A lamp, 12 W.",
        "params": '{"max_words": 9}',
        "priority": 9,
        "max_tokens": 6,
        "target_lang": None,
    },
    {
        "job": "h",
        "kind": "hook",
        "id": "1",
        "text": "A lamp, 12 W.",
        "params": '{"variants": 2}',
        "priority": 1,
        "max_tokens": 7,
        "target_lang": None,
    },
    {
        "job": "t",
        "kind": "translation",
        "id": "1",
        "text": "A lamp, 12 W.",
        "params": None,
        "priority": None,
        "max_tokens": None,
        "target_lang": "no",
    },
    {
        "job": "s",
        "kind": "summary",
        "id": "2",
        "text": "A chair, 4 kg.",
        "params": None,
        "priority": 9,
        "max_tokens": None,
        "target_lang": None,
    },
    {
        "job": "s",
        "kind": "summary",
        "id": "3",
        "text": "A desk.",
        "params": "{broken",
        "priority": 9,
        "max_tokens": None,
        "target_lang": None,
    },
]


@pytest.mark.rest
def test_parquet_job_manifest_mixes_jobs_and_kinds(folder: Any) -> None:
    schema = pa.schema(
        [(name, pa.string()) for name in ("job", "kind", "id", "text", "params")]
        + [("priority", pa.int64()), ("max_tokens", pa.int64()), ("target_lang", pa.string())]
    )
    folder.parquet("night.parquet", NIGHT_ROWS, schema)
    folder.manifest("jobs: {parquet: night.parquet}\n")
    assert folder.run().code == 1
    entries = folder.sql("select job, item_id, variant, status from run_items order by all")
    assert entries == [
        ("h", "1", "", "done"),
        ("s", "1", "", "done"),
        ("s", "2", "", "done"),
        ("s", "3", "", "failed"),
        ("t", "1", "no", "done"),
    ]
    assert folder.one("select code from failures") == "invalid_input"
    assert folder.sql("select job, kind, priority from job_stats order by job") == [
        ("h", "hook", 1),
        ("s", "summary", 9),
        ("t", "translation", 5),
    ]
    hooks = json.loads(folder.one("select data from artifacts where job = 'h'"))
    assert len(hooks) == 2
    assert folder.one("select output_tokens from artifacts where job = 's' and item_id = '1'") <= 6

    # The same file as MANIFEST: its jobs are answered; the store is the one that is named.
    again = folder.run("--model", "builtin:fake", "--store", folder.store, manifest="night.parquet")
    assert again.code == 1
    run = folder.last_run()
    assert (run["num_reused"], run["num_failed"], run["output_tokens"]) == (4, 1, 0)


@pytest.mark.rest
def test_params_of_a_parquet_job_manifest_may_be_a_struct(folder: Any) -> None:
    folder.parquet(
        "night.parquet",
        [
            {
                "job": "h",
                "kind": "hook",
                "id": n,
                "text": f"Lamp {n}",
                "params": {"variants": n + 1},
            }
            for n in range(2)
        ],
    )
    outcome = folder.run("--model", "builtin:fake", manifest="night.parquet", cwd=folder.path)
    assert outcome.code == 0
    lists = folder.sql("select json_array_length(data) from artifacts order by item_id")
    assert lists == [(1,), (2,)]
