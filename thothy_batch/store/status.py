"""The status file: a run's progress, for `status` while the run locks the database."""

import contextlib
import json
from pathlib import Path

from thothy_batch.process import replace_file


def write_status(path: Path, status: dict[str, object]) -> None:
    """Replace the file as a whole. A full disk only makes the status stale, never stops a run."""
    data = json.dumps(status, default=str, ensure_ascii=False).encode("utf-8", "replace")
    with contextlib.suppress(OSError):
        replace_file(path, data, durable=False)


def read_status(path: Path) -> dict[str, object] | None:
    """Return the last status written; None if it is missing or unreadable."""
    try:
        status = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None
