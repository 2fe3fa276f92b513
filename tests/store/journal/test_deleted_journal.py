"""The journal is deleted while a run goes on: the run reports it and claims no lost row."""

from pathlib import Path

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.journal.journal import Journal


def test_a_segment_deleted_while_it_is_written_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("run_items", {"item_id": "a"})
    journal.commit()
    for segment in (tmp_path / "j").glob("*.seg"):
        segment.unlink()
    journal.append("run_items", {"item_id": "b"})
    with pytest.raises(StoreError, match="was deleted while"):
        journal.commit()
