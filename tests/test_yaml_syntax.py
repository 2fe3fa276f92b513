"""YAML 1.2 kind by kind: characters, tabs, quotes, blocks, tags, markers, and what is refused."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yaml_writer import YamlWriter

from thothy_batch.errors import ManifestError
from thothy_batch.yaml_source import load_yaml, parse_yaml


def value_of(text: str) -> Any:
    located = parse_yaml(text)
    assert located.problems == ()
    return located.value


@pytest.mark.parametrize("char", ["\x85", "\u2028", "\u2029", "\xa0", "\u3000"])
def test_only_a_line_feed_or_carriage_return_ends_a_line(char: str) -> None:
    text = (
        f"a: 1 # note{char}b: 2\n"
        f"c: |\n  one{char}two\n"
        f"d: >\n  one{char}two\n  three\n"
        f"e: 'one{char}two'\n"
        f'f: "one{char}two"\n'
        f"g: one{char}two\n"
        f"h: [one{char}two, {{k{char}: v}}]\n"
        f"k{char}: last"
    )
    located = parse_yaml(text)
    word = f"one{char}two"
    assert located.value == {
        "a": 1,
        "c": f"{word}\n",
        "d": f"{word} three\n",
        "e": word,
        "f": word,
        "g": word,
        "h": [word, {f"k{char}": "v"}],
        f"k{char}": "last",
    }
    assert located.line(f"k{char}") == 11


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_break_reads_as_a_line_feed(ending: str) -> None:
    text = "a: |\n  one\n\n  two\nb: 'x\n  y'\nc: [1,\n  2]\nd: last\n".replace("\n", ending)
    located = parse_yaml(text)
    assert located.value == {"a": "one\n\ntwo\n", "b": "x y", "c": [1, 2], "d": "last"}
    assert [located.line(key) for key in "abcd"] == [1, 5, 7, 9]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\t1", {"a": 1}),
        ("a\t:\t1\t# note", {"a": 1}),
        ("-\ta\n- \tb", ["a", "b"]),
        ("-\t-1", [-1]),
        ("a: [\t1,\t2\t]", {"a": [1, 2]}),
        ("a: [\n \t1,\n\t\n 2]", {"a": [1, 2]}),
        ("a:\n \tb\n \tc", {"a": "b c"}),
        ("a: b\tc\t \nd: 1", {"a": "b\tc", "d": 1}),
        ("a: 'b\t\n \t c'", {"a": "b c"}),
        ("\t\na: 1\n\t# note\n\t\nb: 2", {"a": 1, "b": 2}),
        ("a: |\n  \tb\n  c\t\n", {"a": "\tb\nc\t\n"}),
        ("a: >\n  b\n  \tc\n  d\n", {"a": "b\n\tc\nd\n"}),
        ("a: &x\t!!str\t1", {"a": "1"}),
        ("\t{a: 1}", {"a": 1}),
    ],
)
def test_tabs_separate(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n\tb: 1", 2),
        ("a:\n  b: 1\n\tc: 2", 3),
        ("a:\n  b: 1\n  \tc: 2", 3),
        ("-\t- a", 1),
        ("- \ta: b", 1),
        ("?\ta: b", 1),
        ("a: [\n\t1]", 2),
        ("a: 'b\n\tc'", 2),
        ("a: |\n\tb", 2),
        ("a: |\n  b\n\tc", 3),
        ("\ta: 1", 1),
    ],
)
def test_a_tab_as_indentation_is_refused_as_such(text: str, line: int) -> None:
    with pytest.raises(ManifestError, match="tab is not allowed as indentation") as caught:
        parse_yaml(text)
    assert caught.value.problems[0].line == line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &an:chor 1\nb: *an:chor", {"a": 1, "b": 1}),
        ("a: &é😀*! x\nb: [*é😀*!, *é😀*! ]", {"a": "x", "b": ["x", "x"]}),
        ("&k key: &v value\n*v : *k", {"key": "value", "value": "key"}),
        ("a: &e\nb: *e", {"a": None, "b": None}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("a: &m\n  &k b: c\nd: *m\ne: *k", {"a": {"b": "c"}, "d": {"b": "c"}, "e": "b"}),
        ("a: ! 12\nb: ! true\nc: !\nd: ! [1]", {"a": "12", "b": "true", "c": "", "d": [1]}),
        ("a: !!int '12'\nb: !!str 12\nc: !!null ''", {"a": 12, "b": "12", "c": None}),
        ("a: !<tag:yaml.org,2002:str> 1\nb: !!%73tr 2", {"a": "1", "b": "2"}),
        ("%TAG !y! tag:yaml.org,2002:\n---\na: !y!str 1", {"a": "1"}),
        ("a: !!map\n  b: 1\nc: !!seq\n- &x\n  !!str 2", {"a": {"b": 1}, "c": ["2"]}),
        ("{a: !!str, b: &x, c: !!str }", {"a": "", "b": None, "c": ""}),
    ],
)
def test_anchors_and_tags(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00 \U0001F600 \x41 \u00e9"', "😀 😀 A é"),
        (r'"a\tb\/\e\_\N\L\P\\\""', 'a\tb/\x1b\xa0\x85\u2028\u2029\\"'),
        ('"a \\\n   \\  b"', "a   b"),
        ('"a\\\n\n b"', "a\nb"),
        ('" a \n\n  b\n c "', " a\nb c "),
        ('"a\\  \n b"', "a  b"),
        ('"\n a\n "', " a "),
        ('"\x7f\ufeff"', "\x7f\ufeff"),
        ("'it''s'''", "it's'"),
        ("' a \n\n  b\n c '", " a\nb c "),
        ("'\\n'", "\\n"),
        ("a\n b\n\n  c #d", "a b\nc"),
        ("a#b:c", "a#b:c"),
        ("http://x:80/#y", "http://x:80/#y"),
        ("a ' \" \\ b", "a ' \" \\ b"),
        ("-1a ?b :c", "-1a ?b :c"),
        (":a", ":a"),
        ("?a", "?a"),
        ("a, [b], {c}", "a, [b], {c}"),
    ],
)
def test_quoted_and_plain_texts(text: str, value: str) -> None:
    assert value_of(f"x: {text}") == {"x": value}
    assert value_of(f"- {text}") == [value]
    assert value_of(f"---\n{text}\n...\n") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "{a: 1, b, c: , 'd': , \"e\":2, f:g, h: :i}",
            {"a": 1, "b": None, "c": None, "d": None, "e": 2, "f:g": None, "h": ":i"},
        ),
        ("[a: 1, 'b':2, [c]]", [{"a": 1}, {"b": 2}, ["c"]]),
        ("[? a : 1, ? b ]", [{"a": 1}, {"b": None}]),
        ("{? a : 1, ? b}", {"a": 1, "b": None}),
        ("{a\n : 1,\n 'b'\n :2,}", {"a": 1, "b": 2}),
        ("[a b\n c, d # e\n ,]", ["a b c", "d"]),
        ("[]", []),
        ("{}", {}),
        ("[[], {}, '']", [[], {}, ""]),
        ("[http://a:1/?b#c, a-b, -1]", ["http://a:1/?b#c", "a-b", -1]),
    ],
)
def test_brackets(text: str, value: object) -> None:
    assert value_of(text) == value
    assert value_of(f"x: {text}".replace("\n", "\n ")) == {"x": value}


def test_a_closing_bracket_may_stand_below_its_key() -> None:
    """YAML asks for more indentation; no other reading exists, and people write it so."""
    assert value_of("a: [\n  1,\n]\nb: {\n  c: 2\n}\nd: 3") == {"a": [1], "b": {"c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("|\n  a\n\n   b\n", "a\n\n b\n"),
        ("|-\n  a\n\n\n", "a"),
        ("|+\n  a\n\n\n", "a\n\n\n"),
        ("|2\n    a\n  b\n", "  a\nb\n"),
        ("|+1 # note\n \n  a\n", "\n a\n"),
        ("|1-\n  a\n", " a"),
        ("|\n\n  a\n", "\na\n"),
        ("|\n", ""),
        ("|+\n\n\n", "\n\n"),
        ("|\n  # a\n # b\n", "# a\n"),
        ("|\n  a", "a\n"),
        (">\n  a\n  b\n\n  c\n\n\n  d\n", "a b\nc\n\nd\n"),
        (">\n  a\n   b\n   c\n  d\n", "a\n b\n c\nd\n"),
        (">\n  a\n\n   b\n\n  c\n", "a\n\n b\n\nc\n"),
        (">-\n\n\n  a\n", "\n\na"),
        (">+\n  a\n\n", "a\n\n"),
        ("!!str |\n  1\n", "1\n"),
        ("&x |\n  1\n", "1\n"),
    ],
)
def test_block_texts(text: str, value: str) -> None:
    assert value_of(f"x: {text}") == {"x": value}
    assert value_of(f"- {text}") == [value]
    assert value_of(f"- x: {text}".replace("\n ", "\n   ")) == [{"x": value}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("- - a\n  - b\n- c: 1\n  d: 2\n-\n  - e", [["a", "b"], {"c": 1, "d": 2}, ["e"]]),
        ("a:\n- 1\n-\n- b:\n  - 2\nc:", {"a": [1, None, {"b": [2]}], "c": None}),
        ("? a\n: b\n? c\n? |\n  d\n: - 1\n", {"a": "b", "c": None, "d\n": [1]}),
        ("'a' : 1\n\"b\": 2\na#b: c:d", {"a": 1, "b": 2, "a#b": "c:d"}),
        ("a:\n  # note\n\n  b: 1\n # note\nc: 2", {"a": {"b": 1}, "c": 2}),
        ("<<: {a: 1}\n=: 2", {"<<": {"a": 1}, "=": 2}),
        (
            "1: a\ntrue: b\nnull: c\n~: d\n!!str : e",
            {"1": "a", "true": "b", "null": "c", "~": "d", "": "e"},
        ),
        ("%YAML 1.2\n---\na: 1\n...\n# end\n...\n", {"a": 1}),
        ("%YAML 1.1\n# note\n---\na: no", {"a": "no"}),
        ("%YAML 1.3 # note\n%FUTURE thing\n--- # note\na: 1", {"a": 1}),
        ("...\n# none\n---\n- a", ["a"]),
        ("--- |\n%a\n", "%a\n"),
        ("a: ---\nb: ... \nc: x--- y", {"a": "---", "b": "...", "c": "x--- y"}),
        ("\ufeffa: 1", {"a": 1}),
        ("---", None),
    ],
)
def test_blocks_keys_and_markers(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_every_encoding_of_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes("name: ä 😀\n".encode(encoding))
    assert load_yaml(path).value == {"name": "ä 😀"}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\n? [b]\n: c", 2, "lists and mappings as keys are not supported"),
        ("a: 1\n{b: c}: d", 2, "lists and mappings as keys are not supported"),
        ("a: &x [b]\n*x : c", 2, "lists and mappings as keys are not supported"),
        ("a: {{ name }}", 1, "lists and mappings as keys are not supported"),
        ("a: 1\n: b", 2, "a key is missing before ':'"),
        ("a: 1\n? \n", 2, "a key is missing before ':'"),
        ("a: 1\nb: !mine c", 2, "tag !mine is not supported"),
        ("a: !!binary aGk=", 1, "tag !!binary is not supported"),
        ("%TAG !e! tag:e.org,2000:\n---\na: !e!b c", 3, "tag !<tag:e.org,2000:b> is not"),
        ("a: !!seq b", 1, "tag !!seq does not fit a text"),
        ("a: !!int b", 1, "'b' cannot be read as !!int"),
        ("a: 1\n--- \nb: 2", 2, "holds more than one document"),
        ("a: 1\n...\n# note\nb: 2", 4, "holds more than one document"),
        ("%YAML 2.0\n---\na: 1", 1, "YAML 2.0 is not supported"),
        ("a: 1\nb: &x\n  c: *x", 3, "aliases repeat themselves without end"),
        ("a: 1\na: 2", 2, "key 'a' stands twice"),
        ("{a: 1,\n 'a': 2}", 2, "key 'a' stands twice"),
        ('a: "\\ud83d"', 1, "half of a surrogate pair"),
    ],
)
def test_what_is_yaml_but_no_manifest_is_refused_by_its_name(
    text: str, line: int, part: str
) -> None:
    try:
        problems = list(parse_yaml(text).problems)
    except ManifestError as error:
        problems = error.problems
    assert [(problem.line, part in problem.message) for problem in problems] == [(line, True)]
    assert "not valid YAML" not in problems[0].message


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: b: c", 1, "': ' is not allowed here"),
        ("a: 1\n b: 2", 2, "': ' is not allowed here"),
        ("a: 'x'\n b: 2", 2, "indentation of 1 fits no line above"),
        ("a:\n   b: 1\n  c: 2", 3, "indentation of 2 fits no line above"),
        ("a: - b", 1, "a list has to begin on a new line"),
        ("a: 1\nb", 2, "': ' is missing after the key 'b'"),
        ("a: 1\n- b", 2, "an entry of a list stands among keys"),
        ("- a\nb: 1", 2, "does not continue what stands above"),
        ("a: 'b' c", 1, "'c' is not expected after the end of the value"),
        ("a: 'b'#c", 1, "a comment needs a space"),
        ("a: [b,\n  c: [d", 2, "the '[' that opens here is not closed"),
        ("a: 1\nb: {c: [d, e]", 2, "the '{' that opens here is not closed"),
        ("a: [b\nc]", 2, "not indented enough"),
        ("a: [b, , c]", 1, "a value is missing before ','"),
        ("a: [b}", 1, "',' or ']' is expected here"),
        ("a: {b: 1 c: 2}", 1, "': ' is not allowed here"),
        ("a: 1\nb: 'c\n d", 2, "the quote ' that opens here is not closed"),
        ('a: "b\n  \\d"', 2, r"unknown escape '\d'"),
        ("a: @b", 1, "'@' cannot begin a text"),
        ("a: 1\n%b: 2", 2, "'%' cannot begin a text"),
        ("a: |x\n  b", 1, "'|' does not begin a block text"),
        ("a: |\n   \n  b", 2, "an empty line of a block text has more spaces"),
        ("a: &x &y b", 1, "one anchor only"),
        ("a: &x b\nc: &y *x", 2, "an alias can have no tag or anchor"),
        ("a: *x", 1, "undefined alias *x"),
        ("a: !e!x b", 1, "the tag handle !e! is not declared"),
        ("a: &x - b", 1, "a list or mapping stands on the line above it"),
        ("a: &x\n!!str\n b", 2, "is not indented deeper than the key"),
        ("%YAML 1.2\na: 1", 2, "a line --- is missing after the directives"),
        ("%note\n", 2, "a line --- is missing after the directives"),
        ("%YAML 1.2\n%YAML 1.2\n---\n", 2, "%YAML stands twice"),
        ("a: 1\nb: \x07", 2, "does not allow here: U+0007"),
        ("a: 1\nb: x\x7f", 2, "does not allow here: U+007F"),
        ("a: '\x7f'\nb: 1 # \ufeff", 2, "does not allow here: U+FEFF"),
        ("a\n b: c", 2, "': ' is not allowed here"),
        ("[a\n]: b", 1, "a key has to stand on one line"),
        ("[a\n : b]", 2, "a key in [] has to stand on one line"),
    ],
)
def test_what_is_no_yaml_is_refused_with_reason_and_line(text: str, line: int, part: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_yaml(text)
    [problem] = caught.value.problems
    assert problem.message.startswith("not valid YAML: ")
    assert part in problem.message
    assert problem.line == line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" + "a," * 5_000 + "]", "more than 4,000 values"),
        ("- a\n" * 5_000, "more than 4,000 values"),
        ("".join(f"{i}: a\n" for i in range(5_000)), "more than 4,000 values"),
        ("[" * 1_000_000, "nested too deeply"),
        ("- " * 1_000_000, "nested too deeply"),
        ("a: " + "{a: " * 1_000_000, "nested too deeply"),
        ("? " * 1_000_000, "nested too deeply"),
    ],
    ids=["flow", "list", "keys", "brackets", "dashes", "mappings", "questions"],
)
def test_a_text_of_too_many_or_too_deep_values_is_refused_before_it_is_read(
    text: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thothy_batch.yaml_source.syntax.cursor.MAX_VALUES", 4_000)
    with pytest.raises(ManifestError, match=part):
        parse_yaml(text)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    with path.open("wb") as file:
        file.truncate(20 << 20)
    with pytest.raises(ManifestError, match="larger than 16 MiB"):
        load_yaml(path)


_CHARS = "ab é😀\x85\u2028\xa0\t\n\n  :#-?'\"\\,[]{}&*!|>%@`~=0.\x07\x7f\ufeff\r"
_TEXT = st.text(_CHARS, max_size=12) | st.text(st.characters(exclude_categories=("Cs",)))
_KEY = st.text(_CHARS, min_size=1, max_size=5) | st.sampled_from(["no", "null", "1", "<<", ""])
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEY, inner, max_size=4),
    max_leaves=12,
).filter(lambda value: "\\u0000" not in json.dumps(value))


def is_same(found: object, wanted: object) -> bool:
    """Equal, and of one type in every place."""
    return json.dumps(found) == json.dumps(wanted)


@settings(max_examples=100, deadline=None)
@given(_VALUE, st.integers(0, 2**32))
@example({"a": ["x\n\n y", {"b": " \n", "c": []}]}, 1)
def test_a_value_written_in_any_style_is_read_as_itself(value: object, seed: int) -> None:
    text = YamlWriter(seed).document(value)
    assert is_same(value_of(text), value), text


class _OneLineWriter(YamlWriter):
    """Writes no block texts: a text of one word stands on the line on which it begins."""

    def _block_text(self, text: str, indent: int) -> str:
        return ""


_SHAPE = st.recursive(st.none(), lambda inner: st.lists(inner, min_size=1, max_size=4))


def labelled(shape: Any, numbers: Iterator[int], places: dict[tuple[str | int, ...], str]) -> Any:
    """A value whose keys and texts are all different; `places`: the word at each of its keys."""

    def fill(shape: Any, keys: tuple[str | int, ...]) -> Any:
        if shape is None:
            places.setdefault(keys, f"w{next(numbers)}.")
            return places[keys] if isinstance(keys[-1], int) else f"w{next(numbers)}."
        if len(shape) % 2:
            return [fill(each, (*keys, i)) for i, each in enumerate(shape)]
        names = [f"k{next(numbers)}." for _ in shape]
        places.update({(*keys, name): name for name in names})
        return {name: fill(each, (*keys, name)) for name, each in zip(names, shape, strict=True)}

    return fill([shape], ())


@settings(max_examples=50, deadline=None)
@given(_SHAPE, st.integers(0, 2**32))
def test_each_key_and_text_has_the_line_on_which_it_stands(shape: Any, seed: int) -> None:
    places: dict[tuple[str | int, ...], str] = {}
    value = labelled(shape, count(), places)
    text = _OneLineWriter(seed).document(value)
    located = parse_yaml(text)
    assert located.value == value
    for keys, word in places.items():
        assert located.lines[keys] == text.count("\n", 0, text.index(word)) + 1, (text, keys)


@settings(max_examples=50, deadline=None)
@given(_VALUE, st.sampled_from([None, 2]), st.booleans())
def test_json_is_yaml(value: object, indent: int | None, ensure_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
    text = text.replace("-Infinity", "-.inf").replace("Infinity", ".inf")
    assert is_same(value_of(text), value), text


@settings(max_examples=50, deadline=None)
@given(_VALUE, st.sampled_from([None, True, False]), st.integers(2, 9), st.booleans())
def test_what_pyyaml_writes_is_read_as_it_was(
    value: object, flow: bool | None, indent: int, unicode: bool
) -> None:
    """In double quotes, since PyYAML leaves texts plain that only YAML 1.2 takes for numbers."""
    options: dict[str, Any] = {"default_flow_style": flow, "indent": indent, "width": 20}
    options |= {"default_style": '"', "allow_unicode": unicode, "sort_keys": False}
    text = yaml.safe_dump(value, **options)
    assert is_same(value_of(text), value), text
