"""Variables of a manifest: where their values come from, where they stand, what is not shown."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from thothy_batch import errors
from thothy_batch.errors import ManifestError, Problem, without_passwords
from thothy_batch.manifest.settings import Manifest, Overrides, json_schema, load_manifest
from thothy_batch.manifest.variables import ManifestVariables, parse_variables

DAY = date(2026, 11, 30)
JOB = "jobs: [{name: a, kind: summary, input: a.parquet}]\n"


def load(folder: Path, text: str, **given: str) -> Manifest:
    path = folder / "m.yaml"
    path.write_text(text)
    return load_manifest(path, Overrides(variables=given), day=DAY)


def faults_of(folder: Path, text: str, **given: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text, **given)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def test_var_comes_before_the_day_and_the_day_before_the_environment() -> None:
    environment = {"date": "never", "Date": "other", "HOME": "/h", "EMPTY": ""}
    found = ManifestVariables({}, DAY, environment)
    names = ("date", "Date", "HOME", "home", "EMPTY")
    assert [found.get(name) for name in names] == ["2026-11-30", "other", "/h", None, ""]
    found = ManifestVariables({"date": "1999-01-01", "HOME": ""}, DAY, environment)
    assert (found.get("date"), found.get("HOME")) == ("1999-01-01", "")


def test_every_text_value_of_a_manifest_takes_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "data")
    text = """\
store: out/${date}.duckdb
model: {id: "${MODEL}", chat_template_kwargs: {date_string: "${date}"}}
engine: {num_blocks: ${BLOCKS:-600}, prefix_sharing: ${SHARING}, device: ${DEVICE:-cpu}}
run: {deadline: ${AT}, time_budget: ${HOURS}h, metrics_file: "${PLACE}/n.prom"}
jobs:
  - name: night-${date}
    kind: ${PLACE}/mine.yaml
    input: [${PLACE}/${date}/*.parquet, "b-${date}.parquet"]
    columns: {text: ${COLUMN}}
    params: {words: ${WORDS}, tone: "${WORDS}"}
    sampling: {max_tokens: ${MAX}, temperature: 0.${TENTHS}, stop: ["${STOP}"]}
  - name: sql
    kind: raw
    input:
      sql: |
        select '${date}' as day, '$${date}' as literal, $1 as n
        from '${PLACE}/x.parquet'
"""
    given = {
        "MODEL": "a/b", "SHARING": "false", "AT": "06:00", "HOURS": "5", "COLUMN": "body",
        "WORDS": "60", "MAX": "12", "TENTHS": "5", "STOP": "--- ] }",
    }  # fmt: skip
    found = load(tmp_path, text, **given)
    assert found.store == tmp_path / "out/2026-11-30.duckdb"
    assert (found.model.id, found.engine.num_blocks) == ("a/b", 600)
    assert found.model.chat_template_kwargs == {"date_string": "2026-11-30"}
    assert (found.engine.prefix_sharing, found.engine.device) == (False, "cpu")
    assert (found.run.deadline, found.run.time_budget) == ("06:00", 5 * 3600.0)
    job, sql = found.jobs
    assert (job.name, job.kind) == ("night-2026-11-30", "data/mine.yaml")
    assert job.input.patterns == ["data/2026-11-30/*.parquet", "b-2026-11-30.parquet"]  # type: ignore[union-attr]
    assert (job.columns, job.params) == ({"text": "body"}, {"words": 60, "tone": "60"})
    assert job.sampling.given() == {"max_tokens": 12, "temperature": 0.5, "stop": ["--- ] }"]}
    assert sql.input.sql == (  # type: ignore[union-attr]
        "select '2026-11-30' as day, '${date}' as literal, $1 as n\nfrom 'data/x.parquet'\n"
    )


def test_the_day_is_the_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def store_in(zone: str) -> str:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        (tmp_path / "m.yaml").write_text("store: ${date}\n" + JOB)
        return load_manifest(tmp_path / "m.yaml").store.name

    try:
        east, west = store_in("Pacific/Kiritimati"), store_in("Etc/GMT+12")  # 26 hours apart
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 1 <= (date.fromisoformat(east) - date.fromisoformat(west)).days <= 2


def test_unknown_variables_are_errors_with_line_and_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_FOLDER", "x")
    text = JOB + "store: ${SHOP_FOLDRE}/${Date}/${NOTHING_LIKE_IT}.duckdb\n"
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, text)
    found = [(p.line, p.message, p.hint.split("?")[0]) for p in caught.value.problems]
    assert found == [
        (2, "there is no variable 'SHOP_FOLDRE'", "did you mean 'SHOP_FOLDER'"),
        (2, "there is no variable 'Date'", "did you mean 'date'"),
        (2, "there is no variable 'NOTHING_LIKE_IT'",
         "give it by --var or in the environment, or write a default behind the name: :-"),
    ]  # fmt: skip


def test_two_jobs_that_have_one_name_by_variables_are_an_error(tmp_path: Path) -> None:
    job = "kind: summary, input: a.parquet"
    text = f"jobs:\n  - {{name: ${{A}}, {job}}}\n  - {{name: ${{B}}, {job}}}\n"
    assert faults_of(tmp_path, text, A="7", B="7") == [(3, "two jobs are named '7'")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["A"], "--var A: the value is missing"),
        (["=x"], "--var '': a name is expected before the ="),
        (["1A=x"], "--var '1A': a name is expected before the ="),
        (["a b=x"], "--var 'a b': a name is expected before the ="),
        (["${A}=x"], "--var '${A}': a name is expected before the ="),
        (["Ä=x"], "--var 'Ä': a name is expected before the ="),
        (["A=x", "A=x"], "--var A: is given twice"),
        (["A=\udcff"], "--var A: holds bytes that are not UTF-8 text"),
        (["\udcff=x"], "--var '\\udcff': a name is expected before the ="),
    ],
)
def test_malformed_variables_are_bad_usage(texts: list[str], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_variables(texts)
    assert [problem.message for problem in caught.value.problems] == [message]


def test_a_value_may_be_empty_and_hold_anything_that_is_text() -> None:
    texts = ["A=", "B==x=", "_c1=${A}\n'\"#: é"]
    assert parse_variables(texts) == {"A": "", "B": "=x=", "_c1": "${A}\n'\"#: é"}


def test_a_variable_that_the_manifest_does_not_use_is_noted(tmp_path: Path) -> None:
    found = load(tmp_path, "store: ${A}.duckdb\n" + JOB, A="x", dat="2026-12-01")
    assert found.notes == ("--var dat: the manifest does not use ${dat}",)


def test_environment_bytes_that_are_no_text_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYTES", "a\udcffb")
    found = faults_of(tmp_path, "store: ${BYTES}.duckdb\n" + JOB)
    assert found == [(1, "variable 'BYTES' holds bytes that are not UTF-8 text")]


def test_the_values_decide_the_hash_and_not_how_they_are_written(tmp_path: Path) -> None:
    text = JOB.replace("a.parquet", "'${X}.parquet'")
    hashes = [load(tmp_path, text, X=value).manifest_hash for value in ("a", "b")]
    assert hashes[0] != hashes[1]
    assert hashes[0] == load(tmp_path, JOB).manifest_hash


@pytest.fixture
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the secrets of this process."""
    monkeypatch.setattr(errors, "_SECRETS", set())


@pytest.mark.usefixtures("no_secrets")
def test_values_of_secrets_are_neither_stored_nor_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "oak/lamp 7")
    text = (
        "jobs: [{name: a, kind: raw, input: {sql: \"select '${SHOP_PASSWORD}' as id\"}, "
        'params: {where: ["${SHOP_PASSWORD}-x"]}}]\n'
    )
    stored = json.dumps(load(tmp_path, text).as_json())
    assert "oak/lamp" not in stored
    assert "select '***' as id" in stored
    assert "***-x" in stored
    [(_, message)] = faults_of(tmp_path, text + 'engine: {num_blocks: "${SHOP_PASSWORD}"}\n')
    assert message == 'engine.num_blocks must be a whole number, found "***"'


@pytest.mark.usefixtures("no_secrets")
def test_a_secret_is_hidden_as_messages_quote_it_in_hints_and_as_a_number(tmp_path: Path) -> None:
    given = {"A_PASSWORD": "pa'ss\\wörd\"9", "B_TOKEN": "123456"}
    text = 'jobs: [{name: a, kind: raw, input: a.parquet, priority: "${A_PASSWORD}"}]\n'
    assert faults_of(tmp_path, text, **given) == [
        (1, 'jobs[0].priority must be a whole number, found "***"')
    ]
    secret = given["A_PASSWORD"]
    for quoted in (repr(secret)[1:-1], json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        assert without_passwords(quoted).strip('"') == "***"
    [problem] = ManifestError([Problem("wrong", hint=f"write '{secret}'")]).problems
    assert problem.hint == "write '***'"
    job = "{name: a, kind: raw, input: a.parquet, params: {pin: ${B_TOKEN}, other: 1234567}}"
    params = load(tmp_path, f"jobs: [{job}]\n", **given).as_json()["jobs"][0]["params"]
    assert params == {"pin": "***", "other": 1234567}


@pytest.mark.usefixtures("no_secrets")
@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("HF_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("openai_api_key", True),
        ("DB_PASS", True),
        ("PGPASSWORD", True),
        ("MYSQL_PWD", True),
        ("OLDPWD", False),
        ("CREDENTIALS", True),
        ("PWD", False),
        ("MAX_TOKENS", False),
        ("PASSAGES", False),
        ("KEY", False),
        ("date", False),
    ],
)
def test_a_secret_is_known_by_its_name(name: str, *, is_secret: bool) -> None:
    ManifestVariables({name: "oak lamp"}, DAY).get(name)
    assert (without_passwords("an oak lamp") == "an ***") is is_secret


@pytest.mark.parametrize(
    ("section", "is_right"),
    [
        ({"engine": {"num_blocks": "${N}", "device": "${D:-cpu}", "prefix_sharing": "${P}"}}, True),
        ({"run": {"seed": "${S}", "time_budget": "${H}h", "grace": "30s"}}, True),
        ({"output": {"token_ids": "${T}"}}, True),
        ({"engine": {"num_blocks": "many"}}, False),
        ({"engine": {"device": "$D"}}, False),
        ({"engine": {"num_blocks": 0}}, False),
        ({"engine": "${E}"}, False),
        ({"jobs": "${J}"}, False),
    ],
)
def test_the_schema_offers_a_variable_in_place_of_a_value(
    section: dict[str, Any], *, is_right: bool
) -> None:
    document = {"jobs": [{"name": "a", "kind": "raw", "input": "a.parquet"}], **section}
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(document) is is_right
