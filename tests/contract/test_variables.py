"""`--var` and the variables of a manifest, on the command line."""

import json
from typing import Any

import pytest

NIGHT = """
store: out/${date}.duckdb
jobs:
  - name: ${NAME:-night}
    kind: raw
    input: {sql: "select i as id, '${WORD} ' || i || ' of ${date}' as prompt from range(2) t(i)"}
    sampling: {max_tokens: ${N}, ignore_eos: true}
"""


def test_an_unknown_variable_is_an_error_with_its_line(folder: Any) -> None:
    folder.manifest(NIGHT)
    found = folder.call("plan", folder.path / "night.yaml", "--var", "WORD=oak", "--json")
    assert found.code == 2
    [problem] = found.json["error"]["problems"]
    assert problem["line"] == folder.line_of("${N}")
    assert "'N'" in problem["message"]
    assert "--var" in problem["hint"]


@pytest.mark.rest
def test_a_run_takes_variables_before_those_of_the_environment(folder: Any) -> None:
    folder.manifest(NIGHT)
    (folder.path / "out").mkdir()
    given = ("--var", "WORD=oak", "--var", "date=2026-12-01", "--json")
    environment = {"N": "3", "WORD": "pine", "date": "never"}
    planned = folder.call("plan", folder.path / "night.yaml", *given, env=environment).json
    assert planned["first_prompt"] == "oak 0 of 2026-12-01"
    assert planned["num_items"] == 2
    first = folder.run(*given, env=environment)
    assert first.code == 0
    assert first.json["num_done"] == 2
    store = folder.path / "out" / "2026-12-01.duckdb"
    assert store.exists()
    again = folder.run(*given, "--var", "N=3", "--var", "NAME=", env=environment)
    assert again.json["num_reused"] == 2
    store.rename(folder.store)
    assert folder.sql("select distinct job, output_tokens from artifacts") == [("night", 3)]
    assert "oak " in json.loads(folder.last_run()["manifest"])["jobs"][0]["input"]["sql"]


@pytest.mark.rest
@pytest.mark.parametrize(
    "given",
    [["--var", "WORD"], ["--var", "1=x"], ["--var", "N=1", "--var", "N=2"], ["--var"]],
)
def test_a_malformed_variable_is_bad_usage(folder: Any, given: list[str]) -> None:
    folder.manifest(NIGHT)
    for command in ("run", "plan"):
        found = folder.call(command, folder.path / "night.yaml", *given)
        assert found.code == 2
        assert "--var" in found.stderr
    assert not (folder.path / "out").exists()


@pytest.mark.rest
def test_a_value_of_the_environment_that_is_no_text_is_an_error(folder: Any) -> None:
    folder.manifest(NIGHT)
    found = folder.run("--var", "N=1", env={"WORD": "a\udcff"})
    assert found.code == 2
    line = found.error_line("'WORD'", "not UTF-8")
    assert f"night.yaml:{folder.line_of('${WORD}')}:" in line
