"""Input rows, and the entries that they become."""

from dataclasses import dataclass, field
from enum import StrEnum


class ItemStatus(StrEnum):
    """The end of an entry in a run: exactly one of these."""

    DONE = "done"
    FAILED = "failed"
    REUSED = "reused"
    NOT_RUN = "not_run"


@dataclass(slots=True)
class Item:
    """One input row. `problem` says why it cannot be used (then `values` may be incomplete)."""

    row: int  # 0-based, within the job's input
    where: str  # "products.parquet row 17", for messages
    item_id: str
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """An entry: what is due exactly one artifact."""

    job: str
    item_id: str
    variant: str = ""
