"""`plan` from outside: the exit code of the run, files and rows by job, prompts that are cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.cli.main import main
from thothy_batch.cli.render_plan import cut_prompt

Called = Callable[..., tuple[int, str]]

KIND = """\
kind: mine
entry: ENTRY
fields: [text]
system: ""
document: "DOCUMENT"
stages: [{name: only, instruction: Go on.}]
output: {format: text}
checks: CHECKS
"""


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Called:
    """call("plan", "--json") is the exit code and what stands on stdout."""

    def made(command: str, *options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path / "manifest.yaml"), *options])
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().out

    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """write([{"id": ...}], document="{{ text }}") makes a manifest with one job of a kind."""

    def made(
        rows: list[dict[str, Any]],
        document: str = "{{ text }}",
        entry: str = "item",
        given: str = "rows.parquet",
        checks: str = "{empty: fail}",
    ) -> None:
        schema = pa.schema([("id", pa.string()), ("text", pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet")
        kind = KIND.replace("DOCUMENT", document).replace("ENTRY", entry)
        kind = kind.replace("CHECKS", checks)
        (tmp_path / "mine.yaml").write_text(kind)
        (tmp_path / "manifest.yaml").write_text(
            'model: {id: "builtin:fake"}\n'
            f"jobs: [{{name: j, kind: mine.yaml, input: {given}, sampling: {{max_tokens: 8}}}}]\n"
        )

    return made


ROWS = [{"id": str(i), "text": f"text {i}"} for i in range(5)]
FAILING = "{{ text.nothing.at_all }}"


def test_no_entry_that_can_be_computed_is_exit_code_1(
    call: Called, write: Callable[..., None]
) -> None:
    write(ROWS, FAILING)
    code, text = call("plan")
    assert code == 1
    assert "5 of 5 entries cannot be computed: a run ends with exit code 1" in text
    code, document = call("plan", "--json")
    plan = json.loads(document)
    assert (code, plan["exit_code"], plan["jobs"][0]["failed"]) == (1, 1, {"template_error": 5})
    assert call("run", "--json")[0] == 1


def test_some_entries_that_cannot_be_computed_are_exit_code_1(
    call: Called, write: Callable[..., None]
) -> None:
    write([*ROWS, {"id": "x", "text": None}])
    code, text = call("plan")
    assert code == 1
    assert text.rstrip().endswith("1 of 6 entries cannot be computed: a run ends with exit code 1")
    assert call("run", "--json")[0] == 1
    assert call("plan")[0] == 1


@pytest.mark.rest
def test_entries_that_failed_before_are_exit_code_1_too(
    call: Called, write: Callable[..., None]
) -> None:
    write(ROWS[:1], checks="{cut_off: fail}")  # 8 tokens of the fake model end no text
    assert call("plan")[0] == 0
    assert call("run", "--json")[0] == 1
    code, text = call("plan")
    assert code == 1
    assert "1 failed in an earlier run and are not tried again without --retry-failed" in text


@pytest.mark.rest
@pytest.mark.parametrize("entry", ["item", "group"])
def test_no_rows_at_all_are_exit_code_0(
    call: Called, write: Callable[..., None], entry: str
) -> None:
    write([], entry=entry, document="{{ items }}" if entry == "group" else "{{ text }}")
    assert call("plan")[0] == 0
    for _ in range(2):
        code, document = call("run", "--json")
        assert (code, json.loads(document)["num_items"]) == (0, 0)


def test_entries_that_can_all_be_computed_are_exit_code_0(
    call: Called, write: Callable[..., None]
) -> None:
    write(ROWS)
    code, text = call("plan")
    assert code == 0
    assert "exit code" not in text
    assert json.loads(call("plan", "--json")[1])["exit_code"] == 0


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("given", "options", "files", "rows"),
    [
        ("rows.parquet", (), 1, 5),
        ("[rows.parquet, more]", (), 3, 7),
        ("more", ("--limit", "1"), 2, 1),
        ("{sql: \"from 'more/*.parquet'\"}", (), 2, 2),
        ("{sql: \"select '1' as id, 't' as text\"}", (), None, 1),
    ],
)
def test_files_and_rows_of_each_job_are_counted(
    call: Called,
    write: Callable[..., None],
    tmp_path: Path,
    given: str,
    options: tuple[str, ...],
    files: int | None,
    rows: int,
) -> None:
    (tmp_path / "more").mkdir()
    for name in ("a", "b"):
        table = pa.table({"id": [name], "text": [name]})
        pq.write_table(table, tmp_path / "more" / f"{name}.parquet")
    write(ROWS, given=given)
    [job] = json.loads(call("plan", "--json", *options)[1])["jobs"]
    assert (job["num_files"], job["num_rows"], job["num_items"]) == (files, rows, rows)
    [header] = [line for line in call("plan")[1].splitlines() if line.strip().startswith("job ")]
    assert "rows" in header
    assert ("files" in header) == (files is not None)


def test_a_long_prompt_is_cut_in_the_middle_and_whole_on_demand(
    call: Called, write: Callable[..., None]
) -> None:
    lines = [f"line {i}" for i in range(175)]
    write([{"id": "1", "text": "\n".join(lines)}])
    text = call("plan")[1]
    whole = call("plan", "--full")[1]
    assert all(line in whole.splitlines() for line in lines)
    shown = text.splitlines()
    assert "line 0" in shown
    assert "line 174" in shown
    assert "line 90" not in shown
    assert any(line.startswith("… ") and line.endswith(" lines …") for line in shown)
    assert json.loads(call("plan", "--json")[1])["first_prompt"].count("\n") >= 174


@pytest.mark.parametrize("num", [1, 39, 40, 41, 42, 100])
def test_what_is_cut_and_what_is_shown_are_all_lines(num: int) -> None:
    prompt = "\n".join(f"line {i}" for i in range(num))
    shown = cut_prompt(prompt).split("\n")
    if num <= 41:
        assert shown == prompt.split("\n")
        return
    assert shown[:20] == [f"line {i}" for i in range(20)]
    assert shown[20] == f"… {num - 40} lines …"
    assert shown[21:41] == [f"line {i}" for i in range(num - 20, num)]
    assert shown[41:] == ["(cut: --full shows it whole)"]


def test_a_long_line_is_cut_in_its_middle() -> None:
    [shown, _] = cut_prompt("a" * 1000 + "b" * 1000).split("\n")
    assert shown == "a" * 200 + " … 1,600 characters … " + "b" * 200
