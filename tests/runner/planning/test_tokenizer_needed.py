"""A checkpoint without a tokenizer computes prompts of token ids only."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.monitoring.progress import Silent


@pytest.fixture
def bare_night(night: Any, shared: Path) -> Any:
    """A run whose model folder has no tokenizer.json."""
    folder = night.folder / "model"
    shutil.copytree(shared / "data/weights/stories260K", folder)
    (folder / "tokenizer.json").unlink()
    night.rows("rows.parquet", id=["a"], text=["A lamp."])
    night.rows("ids.parquet", id=["a"], prompt_token_ids=[[1, 5]])
    return night


def test_a_job_that_renders_text_is_refused_by_name(bare_night: Any) -> None:
    bare_night.jobs(
        "name: ids, kind: raw, input: ids.parquet",
        "name: words, kind: summary, input: rows.parquet",
        model=str(bare_night.folder / "model"),
    )
    with pytest.raises(ModelError, match=r"tokenizer\.json.*'words'"):
        plan_manifest(bare_night.options(), Silent())
    with pytest.raises(ModelError, match=r"tokenizer\.json.*'words'"):
        bare_night.run()
    assert not bare_night.store.exists()


def test_prompts_of_token_ids_need_none(bare_night: Any) -> None:
    bare_night.jobs(
        "name: ids, kind: raw, input: ids.parquet", model=str(bare_night.folder / "model")
    )
    assert plan_manifest(bare_night.options(), Silent())["requests"]["num_requests"] == 1
