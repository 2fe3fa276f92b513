"""A night of hostile rows through every kind, with a hostile model, and every look at it."""

from collections import Counter
from pathlib import Path

import duckdb
import pytest
from hostile_checks import check_counts, check_nothing_was_carried_out
from hostile_commands import in_log, on_terminal
from hostile_files import HostileFolder, write_folder
from hostile_night import check_morning, check_plan, check_run, run_with_hostile_engine
from hostile_rows import CATEGORIES, hostile_rows

NUM_ROWS = 300


@pytest.fixture
def folder(tmp_path: Path) -> HostileFolder:
    """A night that has not been run; `tmp_path` takes what the looks at it write."""
    (tmp_path / "night").mkdir()
    return write_folder(tmp_path / "night", hostile_rows(NUM_ROWS))


def files_of(folder: HostileFolder) -> set[str]:
    """The files that may lie in the folder after a night."""
    own = {folder.store.name, f"{folder.store.name}.journal"}
    return own | {path.name for path in folder.path.iterdir()}


def test_rows_are_the_same_every_time_and_of_every_category() -> None:
    rows = hostile_rows(NUM_ROWS)
    assert rows == hostile_rows(NUM_ROWS) != hostile_rows(NUM_ROWS, seed=1)
    assert {row.category for row in rows} == set(CATEGORIES)


@pytest.mark.rest
def test_a_hostile_night_ends_like_any_other(folder: HostileFolder, tmp_path: Path) -> None:
    files = files_of(folder)
    check_plan(folder.manifest)
    check_run(on_terminal(folder.path, "run", folder.manifest), drawn=True)
    model = ("--model", "builtin:fake", "--store", folder.store)
    check_plan(folder.job_manifest, *model)
    check_run(in_log(folder.path, "run", folder.job_manifest, *model))
    counts = list(check_morning(folder.store, tmp_path).values())
    assert len(counts) == 2
    assert min(count["done"] for count in counts) > NUM_ROWS / 10
    assert all({"invalid_input", "prompt_too_long"} <= set(count) for count in counts)
    check_nothing_was_carried_out(folder.path, files)


@pytest.mark.rest
def test_hostile_answers_are_kept_as_they_are_and_shown_tame(
    folder: HostileFolder, tmp_path: Path
) -> None:
    files = files_of(folder)
    engine, summary = run_with_hostile_engine(folder)
    assert engine is not None
    assert summary["num_done"] > 2 * NUM_ROWS
    check_morning(folder.store, tmp_path)
    check_nothing_was_carried_out(folder.path, files)
    said = {text.encode("utf-8", "replace").decode() for text in engine.said}
    kept = {text for (text,) in query(folder, "select text from artifacts where kind = 'raw'")}
    assert len(kept) > 20
    assert kept <= said
    check_prompts(folder, engine.prompts)


def check_prompts(folder: HostileFolder, prompts: set[bytes]) -> None:
    """The contents of a row are text to every kind: they stand in the prompt as they are."""
    rendered = [prompt for prompt in prompts if prompt.startswith(b"You are an editor")]
    assert prompts - set(rendered) <= {row.text for row in folder.rows}
    wanted = "select item_id from artifacts where kind = 'summary'"
    used = {item_id.encode() for (item_id,) in query(folder, wanted)}
    once = {item_id for item_id, num in Counter(row.id for row in folder.rows).items() if num == 1}
    texts = [row.text for row in folder.rows if row.text and row.id in used & once]
    texts = [text.decode().strip().encode() for text in texts if len(text) < 3000]
    assert len(texts) > NUM_ROWS / 3
    assert all(any(text in prompt for prompt in rendered) for text in texts)


def query(folder: HostileFolder, sql: str) -> list[tuple[str, ...]]:
    with duckdb.connect(str(folder.store), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.rest
def test_a_second_night_reuses_what_hostile_rows_gave(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, hostile_rows(100, seed=2))
    first = run_with_hostile_engine(folder)[1]
    engine, again = run_with_hostile_engine(folder)
    assert engine is None
    assert again["output_tokens"] == again["num_done"] == 0
    assert again["num_reused"] == first["num_done"] + first["num_reused"] > 0
    check_counts(folder.store)
