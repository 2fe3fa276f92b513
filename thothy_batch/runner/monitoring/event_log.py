"""Event log of runs: one JSON object a line, appended at once.

`events.jsonl` in the journal folder has the runs of this store one after another. A full disk or a
missing right costs lines, never a run.
"""

import contextlib
import json
import os
from datetime import datetime
from pathlib import Path

_MOST_BYTES = 4 * 2**20  # beyond it the file is renamed to events.1.jsonl, replacing that one


class EventLog:
    """Appends events of one run."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self._run_id = run_id
        with contextlib.suppress(OSError):
            if self.path.stat().st_size >= _MOST_BYTES:
                os.replace(self.path, self.path.with_name("events.1.jsonl"))

    def write(self, event: str, **more: object) -> None:
        """Appends one line: at, run_id, event, and `more`."""
        at = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = {"at": at, "run_id": self._run_id, "event": event, **more}
        text = json.dumps(line, default=str, ensure_ascii=False)
        data = text.encode("utf-8", "replace") + b"\n"
        with contextlib.suppress(OSError):
            # Opened for each line, of which there are few: after a rotation, as by logrotate, the
            # next line goes into a new file.
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
