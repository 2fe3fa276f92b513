"""The counts of a run as JSON, in the document of `run --json` and in the status file."""

from typing import TypedDict


class CountsDocument(TypedDict):
    """Entries over all jobs; zeros where a run was skipped or stopped before it counted them."""

    num_items: int
    num_done: int
    num_failed: int
    num_reused: int
    num_not_run: int
    num_flagged: int


class JobDocument(TypedDict):
    """Entries of one job."""

    name: str
    kind: str
    priority: int
    num_items: int
    num_done: int
    num_failed: int
    num_reused: int
    num_not_run: int
    num_flagged: int
    stopped: bool
