"""A process that writes entries 0, 1, 2, ... and says which are committed, until it is killed.

python writer.py STORE RUN_ID FIRST
"""

import os
import sys
from pathlib import Path

from thothy_batch.errors import LockHolder
from thothy_batch.records import EngineTotals
from thothy_batch.store.files import lock_path
from thothy_batch.store.lock import FileLock
from thothy_batch.store.store import Store


def main(path: Path, run_id: str, first: int) -> None:
    """Commits after every few entries and publishes often, so that a kill can hit any moment."""
    FileLock(lock_path(path)).acquire(LockHolder(pid=os.getpid(), run_id=run_id))
    store = Store.open(path)
    store.begin_run({"run_id": run_id, "name": "kills", "jobs": [{"job": "j", "num_items": 10**6}]})
    for number in range(first, 10**6):
        place = {"job": "j", "item_id": f"{number:06d}", "artifact_id": f"a{number:06d}"}
        text = f"text {number} " * (number % 40)
        row = {**place, "kind": "summary", "text": text, "request_key": f"k{number}"}
        store.add("artifacts", {**row, "prompt_tokens": 3, "output_tokens": number % 7})
        store.add("run_items", {**place, "status": "done"})
        store.record_totals(EngineTotals(engine_s=number / 10))
        if number % 7 == 6:
            store._journal.commit()
            print(number, flush=True)
        if number % 50 == 49:
            store.publish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
