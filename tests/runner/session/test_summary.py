"""A run that ended early: its document has every key, its text only a message."""

import os
from datetime import datetime, timedelta
from typing import Any

import pytest

from thothy_batch.cli.render_run import summary_blocks
from thothy_batch.errors import LockHolder
from thothy_batch.report import to_text
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.session.options import IfLocked
from thothy_batch.store.lock import FileLock
from thothy_batch.store.paths import StorePaths


@pytest.mark.rest
def test_a_run_that_ended_before_its_entries_were_counted_has_zeros(raw_project: Any) -> None:
    done = raw_project.run().as_json()
    holder = LockHolder(pid=os.getpid(), run_id="other")
    ends = {"stopped": IfLocked("wait", 60.0), "skipped": IfLocked("skip")}
    with FileLock(StorePaths.of(raw_project.store).lock).acquire(holder):
        for status, if_locked in ends.items():
            soon = datetime.now().astimezone() + timedelta(seconds=0.5)
            options = raw_project.options(deadline=soon.isoformat(), if_locked=if_locked)
            summary = run_manifest(options, raw_project.notes)
            assert to_text(summary_blocks(summary)) == f"{summary.messages[0]}\n"
            ended = summary.as_json()
            assert ended["status"] == status
            assert list(ended) == list(done)
            assert (done["num_items"], ended["num_items"], ended["num_not_run"]) == (12, 0, 0)
            (before,), (after,) = done["jobs"], ended["jobs"]
            assert (list(before), after["num_items"]) == (list(after), 0)
