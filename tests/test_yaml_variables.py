"""Variables in YAML: their values, what stays as it is, and every fault with its line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.errors import ManifestError
from thothy_batch.yaml_source import Field, StrictModel, parse_yaml, validate
from thothy_batch.yaml_source.variables import expand

VALUES = {
    "N": "12",
    "SHARE": "0.5",
    "ON": "true",
    "NO": "no",
    "WORD": "oak",
    "EMPTY": "",
    "OTHER": "${WORD}",
    "YAML": "a: [1, 2] # {b}\n- \"c'",
    "ZEROS": "007",
}


class Fixed(dict[str, str]):
    """Variables of a test."""

    def hint(self, name: str) -> str:
        return f"no {name}"


def value_of(text: str) -> Any:
    found = parse_yaml(f"x: {text}\n", "m.yaml", Fixed(VALUES))
    assert found.problems == ()
    return found.value["x"]  # type: ignore[index]


def faults_of(text: str) -> list[tuple[int | None, str]]:
    found = parse_yaml(text, "m.yaml", Fixed(VALUES))
    return [(problem.line, problem.message) for problem in found.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${WORD}", "oak"),
        ("a-${WORD}-${N}.parquet", "a-oak-12.parquet"),
        ("${N}", 12),
        ("'${N}'", "12"),
        ('"${N}"', "12"),
        ("|-\n  ${N}", "12"),
        ("!!str ${N}", "12"),
        ("!!int '${N}'", 12),
        ("0.${N}", 0.12),
        ("${N}${N}", 1212),
        ("${SHARE}", 0.5),
        ("${ON}", True),
        ("${NO}", "no"),
        ("${EMPTY}", None),
        ("'${EMPTY}'", ""),
        ("${EMPTY:-5}", 5),
        ("${NONE:-5}", 5),
        ("${NONE:-}", None),
        ("'${NONE:-}'", ""),
        ("'${NONE:-a b: c # $d}'", "a b: c # $d"),
        ("${N:-5}", 12),
        ("[${WORD}, ${N}, a${N}b, '${N}']", ["oak", 12, "a12b", "12"]),
        ("{a: ${N}, b: out/${WORD}.parquet}", {"a": 12, "b": "out/oak.parquet"}),
        ("{a: ${NONE:-x, y}}", {"a": "x, y"}),
        ("[a\n  ${WORD}\n  b]", ["a oak b"]),
        ("[&w ${WORD}, *w]", ["oak", "oak"]),
        ("${OTHER}", "${WORD}"),
        ("${YAML}", VALUES["YAML"]),
        ("[${YAML}]", [VALUES["YAML"]]),
    ],
)
def test_a_variable_stands_for_its_value(text: str, value: object) -> None:
    found = value_of(text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$WORD", "$WORD"),
        ("'${}'", "${}"),
        ("'${1x}'", "${1x}"),
        ("'${ WORD }'", "${ WORD }"),
        ("'${7*7} ${{ WORD }} {{ WORD }} #{WORD} %{WORD} $(WORD)'",
         "${7*7} ${{ WORD }} {{ WORD }} #{WORD} %{WORD} $(WORD)"),
        ("5 $ {WORD}", "5 $ {WORD}"),
        ("'${'", "${"),
        ("$${WORD}", "${WORD}"),
        ("[$${WORD}]", ["${WORD}"]),
        ("$$${WORD}", "$oak"),
        ("$$$${WORD}", "$${WORD}"),
        ("$$WORD $$", "$$WORD $$"),
        ("'$${'", "${"),
    ],
)  # fmt: skip
def test_all_else_stays_as_it_is(text: str, value: object) -> None:
    assert value_of(text) == value


def test_keys_and_comments_hold_no_variables() -> None:
    found = parse_yaml("${WORD}: 1\n? ${N}\n: 2\n# ${NONE}\n", "", Fixed(VALUES))
    assert found.value == {"${WORD}": 1, "${N}": 2}
    assert found.problems == ()


def test_without_variables_the_text_is_read_as_yaml_alone() -> None:
    assert parse_yaml("x: ${WORD} $${N}").value == {"x": "${WORD} $${N}"}
    with pytest.raises(ManifestError):
        parse_yaml("x: [${WORD}]")


def test_every_fault_has_its_own_line() -> None:
    text = """\
a: ${NONE}
b:
  - x
  - "y ${FIRST} and
     ${SECOND}"
c: |
  one
  two ${THIRD:x}
  three ${FOURTH:-${N}}
  four ${THIRD:x}
d: {e: 1,
    f: ${SIXTH}}
g: ${SEVENTH:-open
"""
    assert faults_of(text) == [
        (1, "there is no variable 'NONE'"),
        (4, "there is no variable 'FIRST'"),
        (5, "there is no variable 'SECOND'"),
        (8, "'${THIRD:x}' is no variable"),
        (9, "the default of ${FOURTH} holds a '{'"),
        (10, "'${THIRD:x}' is no variable"),
        (12, "there is no variable 'SIXTH'"),
        (13, "variable '${SEVENTH' is not closed by '}'"),
    ]
    assert [line for line, _ in faults_of(text.replace("\n", "\r\n"))][-2:] == [12, 13]


@pytest.mark.parametrize("form", ["${N-5}", "${N:?why}", "${N:+5}", "${N.x}", "${N }", "${N!r}"])
def test_what_begins_as_a_variable_is_one_or_an_error(form: str) -> None:
    assert faults_of(f"x: '{form}'\n") == [(1, f"{form!r} is no variable")]


def test_a_value_that_is_no_text_is_an_error() -> None:
    bad = Fixed(BYTES="a\udcff", NUL="a\0b")
    found = parse_yaml("- ${BYTES}\n- ${NUL}\n", "m.yaml", bad)
    assert [str(problem) for problem in found.problems] == [
        "m.yaml:1: variable 'BYTES' holds bytes that are not UTF-8 text",
        "m.yaml:2: variable 'NUL' holds a NUL character",
    ]


class Settings(StrictModel):
    count: int = Field(default=1, ge=1)
    word: str = "a"


def test_a_value_that_does_not_fit_is_reported_once_and_with_what_stood_there() -> None:
    text = "count: ${WORD}\nword: ${NONE}\n"
    _, problems = validate(Settings, parse_yaml(text, "m.yaml", Fixed(VALUES)))
    assert [(problem.line, problem.message) for problem in problems] == [
        (1, 'count must be a whole number, found "oak"'),
        (2, "there is no variable 'NONE'"),
    ]


def test_a_key_that_takes_only_text_has_the_text_of_a_number() -> None:
    text = "word: ${ZEROS}\ncount: ${ZEROS}\n"
    found, problems = validate(Settings, parse_yaml(text, "m.yaml", Fixed(VALUES)))
    assert (found, problems) == (Settings(word="007", count=7), [])
    _, problems = validate(Settings, parse_yaml("word: 7\ncount: ${ON}\n", "", Fixed(VALUES)))
    assert [(problem.line, problem.message) for problem in problems] == [
        (1, "word must be text, found 7 (put it in quotes)"),
        (2, "count must be a whole number, found true"),
    ]


def test_values_that_add_up_to_too_much_are_refused_before_they_are_joined() -> None:
    with pytest.raises(ManifestError, match="variables of more than 16,777,216 characters"):
        parse_yaml("x: '" + "${BIG}" * 17 + "'", "", Fixed(BIG="a" * 1_000_000))


PIECES = st.sampled_from(["$", "{", "}", ":-", "N", "WORD", "NONE", "${N}", "a", " ", "\n", "é"])
TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=50)


@given(TEXTS.filter(lambda text: "${" not in text))
def test_a_text_without_a_variable_is_unchanged(text: str) -> None:
    parts, faults = expand(text, Fixed(VALUES))
    assert ("".join(parts), faults) == (text, [])


@pytest.mark.rest
@given(TEXTS)
def test_a_text_with_every_dollar_before_a_bracket_doubled_means_itself(text: str) -> None:
    doubled = ""
    for index, char in enumerate(text):
        rest = text[index:].lstrip("$")
        doubled += "$$" if char == "$" and rest.startswith("{") else char
    parts, faults = expand(doubled, Fixed(VALUES))
    assert ("".join(parts), faults) == (text, [])


def shape(value: Any) -> Any:
    """Keys and lengths of a document, without its values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_no_value_changes_the_structure_of_a_document(value: str) -> None:
    text = 'a: ${V}\nb: [x${V}, "${V}", {c: ${V}}]\nd: |\n  ${V}\n  y\n? e\n: &f ${V}\ng: *f\n'
    found = parse_yaml(text, "", Fixed(V=value))
    assert found.problems == () or len(value) > 400
    assert shape(found.value) == shape(parse_yaml(text, "", Fixed(V="v")).value)
    assert found.value["b"][1] == value  # type: ignore[index]
    assert found.value["d"] == f"{value}\ny\n"  # type: ignore[index]
