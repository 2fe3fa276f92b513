"""Work that dead runs left in the journal, found when the store is opened."""

from dataclasses import dataclass, field

from thothy_batch.store.database.merge import COPIES
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.journal.segment import Record
from thothy_batch.store.queries.result_lookup import ARTIFACT_FIELDS, FAILURE_FIELDS, slim

_RESULT_FIELDS = {
    "artifacts": ARTIFACT_FIELDS,
    COPIES: ARTIFACT_FIELDS,
    "failures": FAILURE_FIELDS,
}


@dataclass(slots=True)
class Recovery:
    """Work of dead runs that `Store.open` recovered."""

    cut_bytes: int = 0  # unfinished writes at the end of segments
    damaged_bytes: int = 0  # unreadable parts between valid records
    num_records: int = 0  # valid records that were not published yet
    killed_runs: list[str] = field(default_factory=list)


def recover(journal: Journal) -> tuple[Recovery, list[Record]]:
    """Cut unfinished writes; return what was found, and the results that are not published."""
    found, results = Recovery(), []
    for _, content in journal.recover():
        found.cut_bytes += content.tail_bytes
        found.damaged_bytes += content.damaged_bytes
        found.num_records += len(content.records)
        results += [
            (t, slim(_RESULT_FIELDS[t], r)) for t, r in content.records if t in _RESULT_FIELDS
        ]
    return found, results
