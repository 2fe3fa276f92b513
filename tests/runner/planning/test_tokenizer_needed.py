"""A checkpoint without a tokenizer computes prompts of token ids only."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.monitoring.progress import Silent


@pytest.fixture
def bare_project(project: Any, shared: Path) -> Any:
    """A run whose model folder has no tokenizer.json."""
    folder = project.folder / "model"
    shutil.copytree(shared / "data/weights/stories260K", folder)
    (folder / "tokenizer.json").unlink()
    project.rows("rows.parquet", id=["a"], text=["A lamp."])
    project.rows("ids.parquet", id=["a"], prompt_token_ids=[[1, 5]])
    return project


def test_a_job_that_renders_text_is_refused_by_name(bare_project: Any) -> None:
    bare_project.jobs(
        "name: ids, kind: raw, input: ids.parquet",
        "name: words, kind: summary, input: rows.parquet",
        model=str(bare_project.folder / "model"),
    )
    with pytest.raises(ModelError, match=r"tokenizer\.json.*'words'"):
        plan_manifest(bare_project.options(), Silent())
    with pytest.raises(ModelError, match=r"tokenizer\.json.*'words'"):
        bare_project.run()
    assert not bare_project.store.exists()


def test_prompts_of_token_ids_need_none(bare_project: Any) -> None:
    bare_project.jobs(
        "name: ids, kind: raw, input: ids.parquet", model=str(bare_project.folder / "model")
    )
    assert plan_manifest(bare_project.options(), Silent())["requests"]["num_requests"] == 1
