"""Writes store-schema-1.duckdb.gz: a small store as the first release leaves it.

Kept for the record. The file is never written again once schema 1 is released; a new schema gets
a script and a file of its own. Run from the top of the checkout with an empty folder as argument.
"""

import gzip
import sys
from pathlib import Path

from thothy_batch.store.store import Store

FIRST_NIGHT = 1_700_000_000  # fixed times: the content does not depend on the day


def main(folder: Path) -> None:
    """Two nights of three entries: made, failed and reused."""
    store = Store.open(folder / "artifacts.duckdb")
    for night in (1, 2):
        start = FIRST_NIGHT + night * 86_400
        jobs = [{"job": "notes", "kind": "summary", "priority": 5, "num_items": 3}]
        store.begin_run(
            {
                **{"run_id": f"run{night}", "name": "golden", "started_at": start, "jobs": jobs},
                **{"manifest": {"jobs": ["notes"]}, "model": {"name": "tiny"}, "host": "box"},
            }
        )
        entry = {"job": "notes", "kind": "summary", "item_id": "a", "variant": ""}
        if night == 1:
            made = {"text": "A lamp.", "data": ["x"], "flags": ["short"], "verdict": "flagged"}
            counts = {"prompt_tokens": 9, "cached_prompt_tokens": 4, "output_tokens": 3}
            times = {"queue_s": 0.1, "engine_s": 0.2, "created_at": start + 5}
            ids = {"artifact_id": "id-a", "request_key": "key-a", "output_token_ids": [7, 8, 2]}
            more = {"finish_reason": "stop", "attempt": 1, "seed": 2**62, "model": "tiny"}
            store.add("artifacts", {**entry, **made, **counts, **times, **ids, **more})
        copy = {**entry, "item_id": f"b{night}", "artifact_id": f"id-b{night}"}
        store.add_copy({**copy, "request_key": "key-a", "created_at": start + 6}, "id-a")
        for item, status, artifact_id in (
            ("a", "done" if night == 1 else "reused", "id-a"),
            (f"b{night}", "reused", f"id-b{night}"),
            ("c", "failed", None),
        ):
            row = {"job": "notes", "item_id": item, "status": status, "artifact_id": artifact_id}
            store.add("run_items", row)
        failure = {**entry, "item_id": "c", "code": "invalid_input", "message": "the text is null"}
        store.add("failures", {**failure, "attempt": 1, "failed_at": start + 1})
        step = {"at_s": 1.0, "num_running": 1, "decode_tokens": 3, "step_s": 0.01}
        store.add("engine_steps", step)
        scalars = {"engine_s": 2.0, "wall_s": 6.0, "load_s": 1.0, "wasted_tokens": 0}
        ends = {"status": "completed", "exit_code": 1, "finished_at": start + 6}
        store.end_run({**scalars, **ends, "engine_ready_at": start + 2})
    store.close()
    data = (folder / "artifacts.duckdb").read_bytes()
    target = Path(__file__).parent / "store-schema-1.duckdb.gz"
    target.write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
