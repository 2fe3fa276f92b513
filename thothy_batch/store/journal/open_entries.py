"""The entries of the run in progress, so that a killed run lists those it did not reach.

They are journaled before the run begins, in few records, and kept until the run is counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import attrgetter

import duckdb

from thothy_batch.records import EntryKey

_MAX_ENTRIES = 2000  # entries per record

_INSERT_NOT_RUN = """
INSERT INTO run_items BY NAME
WITH known AS (
    SELECT job, unnest(item_ids) AS item_id, unnest(variants) AS variant
    FROM open_entries WHERE run_id = $run_id
),
entries AS (SELECT job, item_id, coalesce(variant, '') AS variant FROM known)
SELECT $run_id AS run_id, *, 'not_run' AS status, $reason AS reason
FROM entries ANTI JOIN (SELECT * FROM run_items WHERE run_id = $run_id) ended
    USING (job, item_id, variant)
"""


def open_rows(entries: Iterable[EntryKey]) -> Iterator[Mapping[str, object]]:
    """Yield rows of `open_entries` in the order of the entries, each of one job.

    `variants` runs parallel to `item_ids`; omitted if every variant is ''.
    """
    for job, keys in groupby(entries, key=attrgetter("job")):
        while part := list(islice(keys, _MAX_ENTRIES)):
            row = {"job": job, "item_ids": [key.item_id for key in part]}
            if any(key.variant for key in part):
                row["variants"] = [key.variant for key in part]
            yield row


def insert_not_run(connection: duckdb.DuckDBPyConnection, run_id: str, reason: str) -> None:
    """Insert the entries whose end a run could not record into run_items, as not run."""
    connection.execute(_INSERT_NOT_RUN, {"run_id": run_id, "reason": reason})


def keep_only(connection: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Delete the open entries of every other run ("": of all runs)."""
    connection.execute("DELETE FROM open_entries WHERE run_id <> ?", [run_id])
