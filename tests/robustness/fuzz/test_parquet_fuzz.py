"""Parquet inputs: any column of any type, any damage. Rows fail one by one, files by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bounds import examples
from columns_of_chance import TYPES, every_cell, tables
from fuzz_night import fresh_folder, prepared, run_to_end
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutated_bytes

from thothy_batch.errors import ManifestError, ThothyError

OWN = """\
kind: own
fields: [text]
optional_fields: [week, priority]
params: {max_words: {type: float, default: 5}}
document: "{{ text }} {{ week }} {{ priority }}"
stages:
  - {name: draft, instruction: "In {{ params.max_words }} words."}
  - {name: polish, instruction: "Shorten {{ previous }}"}
"""
JOBS = (
    "kind: summary",
    "kind: hook, params: {variants: 2}, sampling: {temperature: 0.5}",
    "kind: translation, params: {target_langs: [de, es]}",
    "kind: translation",
    "kind: report, params: {group_by: week}",
    "kind: report",
    "kind: raw",
    "kind: own.yaml",
    "kind: summary, columns: {text: week, id: text}, on_too_long: truncate_tail",
)
COLUMNS = ("id", "text", "week")
MORE = ("prompt", "prompt_token_ids", "max_tokens", "params", "target_lang", "priority")
ROWS = tables(*COLUMNS, more=MORE)
JOB_ROWS = tables("job", "kind", "id", "text", "params", "priority", "max_tokens", more=MORE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of the examples, one after the other."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "own.yaml").write_text(OWN)
    return folder


def night_of(folder: Path, rows: bytes, jobs: tuple[str, ...] = JOBS) -> Path:
    """A manifest of these jobs over one file."""
    (folder / "rows.parquet").write_bytes(rows)
    lines = [
        f"  - {{name: j{i}, input: rows.parquet, sampling: {{max_tokens: 4}}, {job}}}\n"
        if "sampling" not in job
        else f"  - {{name: j{i}, input: rows.parquet, {job}}}\n"
        for i, job in enumerate(jobs)
    ]
    (folder / "night.yaml").write_text("jobs:\n" + "".join(lines))
    return folder / "night.yaml"


def names_file(error: ThothyError, name: str) -> bool:
    return isinstance(error, ManifestError) and all(name in str(p) for p in error.problems)


@pytest.mark.rest
@given(rows=ROWS, job=st.sampled_from(JOBS))
@examples(80)
def test_rows_of_any_type_become_entries_or_the_file_is_refused(
    folder: Path, rows: bytes, job: str
) -> None:
    found = prepared(night_of(folder, rows, (job,)))
    assert not isinstance(found, ThothyError) or names_file(found, "rows.parquet")


@pytest.mark.few(1)
@pytest.mark.parametrize("name", [*COLUMNS, *MORE, "job", "kind"])
def test_every_type_in_every_column_is_read_or_refused(folder: Path, name: str) -> None:
    """In a file of rows and in a job manifest, for a kind that reads the column."""
    own = {"max_tokens": "raw", "prompt": "raw", "prompt_token_ids": "raw"}
    kind = own.get(name, "translation" if name == "target_lang" else "own.yaml")
    for type_name in TYPES:
        rows = every_cell(name, type_name, text="fine")
        found = prepared(night_of(folder, rows, (f"kind: {kind}",)))
        assert not isinstance(found, ThothyError) or names_file(found, "rows.parquet"), type_name
        manifest = folder / "night.parquet"
        manifest.write_bytes(every_cell(name, type_name, job="j", kind=kind, text="fine"))
        prepared(manifest)


@pytest.mark.rest
@given(rows=JOB_ROWS)
@examples(50)
def test_job_manifests_of_any_type_become_jobs_or_are_refused(folder: Path, rows: bytes) -> None:
    manifest = folder / "night.parquet"
    manifest.write_bytes(rows)
    prepared(manifest)


@pytest.mark.rest
@given(rows=ROWS.flatmap(lambda data: mutated_bytes((data,), num=3)), job=st.sampled_from(JOBS))
@examples(80)
def test_damaged_files_are_named(folder: Path, rows: bytes, job: str) -> None:
    found = prepared(night_of(folder, rows, (job,)))
    assert not isinstance(found, ThothyError) or names_file(found, "rows.parquet")


@pytest.mark.rest
@given(rows=JOB_ROWS.flatmap(lambda data: mutated_bytes((data,), num=3)))
@examples(50)
def test_damaged_job_manifests_are_named(folder: Path, rows: bytes) -> None:
    manifest = folder / "night.parquet"
    manifest.write_bytes(rows)
    prepared(manifest)


@given(rows=st.one_of(st.just(b""), st.binary(max_size=64), st.just(b"PAR1PAR1")))
@examples(10)
def test_files_that_are_no_parquet_are_refused(folder: Path, rows: bytes) -> None:
    found = prepared(night_of(folder, rows, JOBS[:1]))
    assert isinstance(found, ThothyError)
    assert names_file(found, "rows.parquet")


@pytest.mark.rest
@given(rows=ROWS, job=st.sampled_from(JOBS))
@examples(8)
def test_a_night_over_any_rows_adds_up(rows: bytes, job: str) -> None:
    with fresh_folder() as folder:
        (folder / "own.yaml").write_text(OWN)
        found = run_to_end(night_of(folder, rows, (job,)))
    assert not isinstance(found, ThothyError) or names_file(found, "rows.parquet")


@given(rows=JOB_ROWS)
@examples(5)
def test_a_night_over_any_job_manifest_adds_up(rows: bytes) -> None:
    with fresh_folder() as folder:
        (folder / "own.yaml").write_text(OWN)
        manifest = folder / "night.parquet"
        manifest.write_bytes(rows)
        run_to_end(manifest)
