"""YAML 1.2 with lines: what is read, what is refused, and that nothing ends in a traceback."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.errors import ManifestError
from thothy_batch.yaml_source import Field, Located, StrictModel, load_yaml, parse_yaml, validate


class Inner(StrictModel):
    count: int = Field(default=1, ge=1)
    share: float = 0.5
    on: bool = False
    word: str = "a"


class Outer(StrictModel):
    name: str
    inner: Inner = Inner()
    many: list[Inner] = []
    maybe: Inner | None = None


def value_of(text: str) -> Any:
    return parse_yaml(f"x: {text}").value["x"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("22:30", "22:30"),
        ("06:00", "06:00"),
        ("1:2:3", "1:2:3"),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T06:00:00Z", "2026-11-23T06:00:00Z"),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("-7", -7),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("'17'", "17"),
        ('"true"', "true"),
        ("!!str 17", "17"),
        ("!!float 1", 1.0),
        ("=", "="),
        ("[de, no, sv]", ["de", "no", "sv"]),
        ("{no: 1}", {"no": 1}),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(value_of(".nan"))


def test_each_key_and_entry_knows_its_line() -> None:
    located = parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n")
    assert located.line("a") == 1
    assert located.line("b", 0) == 3
    assert located.line("b", 1, "d") == 5
    assert located.line("b", 1, "unknown") == 4
    assert located.line("unknown") is None


def test_an_anchor_copies_its_value() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x").value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: [1, 2", 2, "not valid YAML"),
        ("a:\n\t- 1", 2, "a tab is not allowed"),
        ("a: 1\n---\nb: 2", 2, "more than one document"),
        ("a: *nowhere", 1, "undefined alias"),
        ('a: 1\nb: "\\UFFFFFFFF"', 2, "not valid YAML"),
        ("a: 1\nb: \x00", 2, "character"),
        ("a: &x [*x]", 1, "aliases"),
        ("[" * 3000, 1, "too deeply"),
        ("a: 1\nb: " + "[" * 101 + "]" * 101, 2, "too deeply"),
        ("a: '\x85\u2028\u2029'\r\nb: 1\rc: [", 3, "not valid YAML"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text: str, line: int, part: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_yaml(text, "m.yaml")
    problem = caught.value.problems[0]
    assert part in problem.message
    assert (problem.path, problem.line) == ("m.yaml", line)


def test_aliases_cannot_explode() -> None:
    text = "a: &a [1,1,1,1,1,1,1,1,1]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{','.join(['*' + last] * 9)}]\n"
    with pytest.raises(ManifestError, match="aliases"):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("name: a\nname: b", 2, "'name' stands twice"),
        ("name: a\ninner: {count: 1,\n count: 2}", 3, "'count' stands twice"),
        ("name: !thing a", 1, "!thing"),
        ("name: !!int x", 1, "cannot be read"),
        ("name: a\n? [1, 2]\n: 3", 2, "keys are not supported"),
        ('name: "\\ud800"', 1, "surrogate"),
        ('name: "a\\0b"', 1, "NUL"),
        ("name: " + "9" * 5000, 1, "digits"),
    ],
)
def test_faults_within_readable_yaml_are_problems(text: str, line: int, part: str) -> None:
    instance, problems = validate(Outer, parse_yaml(text, "m.yaml"))
    assert instance is None
    assert any(part in p.message and p.line == line for p in problems), problems


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("nam: a", 1, "unknown key 'nam'", "'name'"),
        ("name: a\ninner:\n  coumt: 1", 3, "unknown key 'inner.coumt'", "'count'"),
        ("name: a\nmany:\n- count: 1\n- shar: 1", 4, "unknown key 'many[1].shar'", "'share'"),
        ("name: a\nmaybe:\n  wrd: x", 3, "unknown key 'maybe.wrd'", "'word'"),
        ("name: a\nzzz: 1", 2, "unknown key 'zzz'", "known here: inner, many, maybe, name"),
        ("name: a\n<<: {}", 2, "unknown key '<<'", "no merge keys"),
        ("inner: {}", None, "name is missing", ""),
        ("name: 17", 1, "name must be text, found 17 (put it in quotes)", ""),
        ("name: a\ninner: {count: 0}", 2, "inner.count must be at least 1, found 0", ""),
        ("name: a\ninner: {count: 1.5}", 2, "inner.count must be a whole number, found 1.5", ""),
        ("name: a\ninner: {count: true}", 2, "must be a whole number, found true", ""),
        ("name: a\ninner: {on: yes}", 2, 'inner.on must be true or false, found "yes"', ""),
        ("name: a\ninner: {share: .inf}", 2, "inner.share must be a finite number", ""),
        ("name: a\ninner: 5", 2, "inner must be a mapping", ""),
        ("name: a\nmany: {}", 2, "many must be a list", ""),
        ("name: a\nmany: [5]", 2, "many[0] must be a mapping", ""),
    ],
)
def test_problems_name_line_value_and_remedy(
    text: str, line: int | None, message: str, hint: str
) -> None:
    instance, problems = validate(Outer, parse_yaml(text), "m.yaml")
    assert instance is None
    [found] = [p for p in problems if message in p.message]
    assert (found.path, found.line) == ("m.yaml", line)
    assert hint in found.hint


def test_all_problems_come_at_once_in_line_order() -> None:
    text = "inner: {count: 0}\nmany:\n- {on: 1}\n- {nope: 2}\nname: 5\n"
    _, problems = validate(Outer, parse_yaml(text))
    assert [p.line for p in problems] == [1, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "# only a comment", "just text", "- a\n- b", "17"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    instance, problems = validate(Outer, parse_yaml(text))
    assert instance is None
    assert len(problems) == 1


def test_a_whole_number_serves_where_a_number_is_wanted() -> None:
    instance, problems = validate(Outer, parse_yaml("name: a\ninner: {share: 1}"))
    assert problems == []
    assert instance is not None
    assert instance.inner.share == 1


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        (b"name: a\nb: \xff\xfe\n", 2, "not UTF-8 text"),
        ("name: ä\n".encode("utf-16-le") + b"\x00\xdc", 2, "not UTF-16-LE text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1, "not UTF-8 text"),
    ],
)
def test_files_that_are_no_text_are_refused(
    tmp_path: Path, content: bytes, line: int, part: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        load_yaml(path)
    assert part in caught.value.problems[0].message
    assert caught.value.problems[0].line == line


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load_yaml(path).value == {"name": "a"}


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ManifestError, match="cannot be read"):
        load_yaml(tmp_path)


def outcome(text: str) -> Located | None:
    try:
        located = parse_yaml(text)
    except ManifestError:
        return None
    instance, problems = validate(Outer, located)
    assert (instance is None) == bool(problems)
    return located


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    outcome(text)


_PIECES = st.sampled_from(
    [
        *"abn:-[]{},&*!|>'\"%@?#~ \n\t\\",
        "name",
        "inner",
        ": ",
        "- ",
        "\n  ",
        "\n- ",
        "---\n",
        "...",
        "&a ",
        "*a",
        "!!int ",
        "!<x> ",
        "<<: ",
        "%YAML 1.2\n",
        "%TAG ! %ff\n",
        "\\U",
        "\\ud8",
        "0x",
        "1e999",
        ".nan",
        "count",
        "\ufeff",
        "\x85",
        "\u2028",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=25))
def test_any_yaml_like_text_is_read_or_refused(pieces: list[str]) -> None:
    outcome("".join(pieces))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "inner", "many", "maybe", "count", "share", "on", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(_JSON)
def test_any_shape_of_value_gives_an_instance_or_problems(value: object) -> None:
    instance, problems = validate(Outer, Located(value, "m", {}))
    assert (instance is None) == bool(problems)
    assert all(str(problem) for problem in problems)


def test_block_texts_keep_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: |\n  two\n  lines\ninner:\n  word: >-\n   a\n   b\n", encoding="utf-8")
    instance, problems = validate(Outer, load_yaml(path))
    assert problems == []
    assert instance is not None
    assert instance.name == "two\nlines\n"
    assert instance.inner.word == "a b"
