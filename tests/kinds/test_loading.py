"""Kind files: the built-in ones, users' own, and every problem with its line."""

import pickle
from pathlib import Path

import pytest

from thothy_batch import kinds
from thothy_batch.errors import ManifestError
from thothy_batch.kinds.loading import builtin_kinds

GOOD = """\
kind: tagline
version: 2
description: A tagline.
entry: item
fields: [text, name]
optional_fields: [brand]
params:
  tone: {type: str, default: dry}
  max_words: {type: int, default: 9, min: 1, max: 20}
sampling: {temperature: 0.5, max_tokens: 30}
system: You write taglines.
document: |
  {{ name }}: {{ text }}
stages:
  - name: draft
    instruction: |
      Write a {{ params.tone }} tagline{% if brand %} for {{ brand }}{% endif %}.
  - name: polish
    instruction: |
      Shorten this: {{ previous }}
output: {format: text}
checks: {empty: fail, cut_off: flag}
"""


def load(folder: Path, text: str) -> kinds.Kind:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return kinds.load_kind("own.yaml", folder)


def problems(folder: Path, text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text)
    assert all(problem.path.endswith("own.yaml") for problem in caught.value.problems)
    return [(problem.line, str(problem)) for problem in caught.value.problems]


def only_problem(folder: Path, text: str) -> tuple[int | None, str]:
    found = problems(folder, text)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("summary", "item"),
        ("hook", "item"),
        ("translation", "target_lang"),
        ("report", "group"),
        ("raw", "item"),
    ],
)
def test_every_builtin_kind_loads_and_travels_to_workers(name: str, entry: str) -> None:
    kind = kinds.load_kind(name, Path("nowhere"))
    assert (kind.name, kind.entry, kind.raw) == (name, entry, name == "raw")
    assert pickle.loads(pickle.dumps(kind)) == kind


def test_the_builtin_kinds_are_those_of_the_contract() -> None:
    assert builtin_kinds() == ["hook", "raw", "report", "summary", "translation"]


def test_a_users_kind_loads_by_relative_and_absolute_path(tmp_path: Path) -> None:
    kind = load(tmp_path, GOOD)
    assert kind.name == "tagline"
    assert kind.fields == ("text", "name")
    assert [stage.name for stage in kind.stages] == ["draft", "polish"]
    assert kinds.load_kind(str(tmp_path / "own.yaml"), Path("elsewhere")) == kind


def test_unknown_kind_names_the_nearest_builtin() -> None:
    with pytest.raises(ManifestError, match=r"unknown kind 'sumary'.*did you mean 'summary'"):
        kinds.load_kind("sumary", Path())


def test_missing_kind_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no kind file .*own\.yaml"):
        kinds.load_kind("own.yaml", tmp_path)


def test_every_problem_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        GOOD.replace("version: 2", "verson: 2")
        .replace("default: 9", "default: 99")
        .replace("{{ name }}: {{ text }}", "{{ name }}: {{ txt }}")
        .replace("empty: fail", "emty: fail")
        .replace("{{ previous }}", "{{ previous }")
    )
    found = problems(tmp_path, text)
    assert [line for line, _ in found] == [2, 9, 13, 20, 22]
    words = ["unknown key 'verson'", "at most 20", "'txt' is no declared field", "'}'", "'empty'"]
    for (_, message), word in zip(found, words, strict=True):
        assert word in message


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("entry: item", "entry: items", 4, "did you mean 'item'"),
        ("[text, name]", "[text, name, params]", 5, "a name that templates own"),
        ("[text, name]", "[text, name, a-b]", 5, "no name for templates"),
        ("[text, name]", "[text, name, text]", 5, "stands twice"),
        ("type: str", "type: string", 8, "must be"),
        ("default: dry", "default: 3", 8, "must be text"),
        ("min: 1, max: 20", "min: 10, max: 2", 9, "min 10 is above max 2"),
        ("default: dry", "default: dry, min: 1", 8, "belong to int and float"),
        ("max_words:", "_words:", 9, "no name for templates"),
        ("temperature: 0.5", "temperature: -1", 10, "at least 0"),
        ("temperature: 0.5", "temprature: 0.5", 10, "did you mean 'temperature'"),
        ("{{ name }}: {{ text }}", "{{ name }}: {{ previous }}", 13, "second stage"),
        ("{{ name }}: {{ text }}", "{{ name }}\n\n\n  {{ items }}", 16, "entry: group"),
        ("{{ name }}: {{ text }}", "{{ target_lang }}", 13, "entry: target_lang"),
        ("params.tone", "params.tune", 17, "did you mean 'tone'"),
        ("params.tone", "params['tune']", 17, "no declared param"),
        ("{{ params.tone }}", "{{ params.tone | uper }}", 17, "did you mean 'upper'"),
        ("{{ params.tone }}", "{% include 'x' %}", 17, "cannot read other files"),
        ("{% endif %}", "", 17, "endif"),
        ("name: polish", "name: draft", 18, "stage 'draft' stands twice"),
        ("format: text", "format: sections", 21, "output.sections is missing"),
        ("format: text", "format: text, sections: [A]", 21, "has no sections"),
        ("format: text", "format: sections, sections: [A, a]", 21, "stands twice"),
        ("empty: fail", "count: flag", 22, "belongs to output format lines"),
        ("empty: fail", "empty: warn", 22, "must be 'flag' or 'fail'"),
        ("entry: item", "entry: item\nsamples: nope", 5, "samples names no param"),
    ],
)
def test_each_problem_has_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in GOOD
    found_line, found = only_problem(tmp_path, GOOD.replace(old, new, 1))
    assert message in found
    assert found_line == line


def test_samples_need_a_counting_param_and_lines(tmp_path: Path) -> None:
    text = GOOD.replace("entry: item", "entry: item\nsamples: tone")
    found = problems(tmp_path, text)
    assert "counts samples" in found[1][1]
    assert "{format: lines}" in found[0][1]


def test_a_raw_kind_has_no_templates_checks_or_groups(tmp_path: Path) -> None:
    text = (
        "kind: own\nraw: true\nentry: group\nsystem: hi\nstages:\n  - name: draft\n"
        "  - name: more\nchecks: {empty: flag}\n"
    )
    assert [line for line, _ in problems(tmp_path, text)] == [3, 4, 7, 8]


def test_stages_need_an_instruction(tmp_path: Path) -> None:
    line, message = only_problem(tmp_path, "kind: own\nfields: [text]\nstages:\n  - name: draft\n")
    assert (line, "instruction is missing" in message) == (4, True)


def test_group_templates_reach_fields_through_items(tmp_path: Path) -> None:
    text = "kind: g\nentry: group\nfields: [text]\nstages:\n  - name: a\n    instruction: {}\n"
    load(tmp_path, text.format('"{% for i in items %}{{ i.text }}{% endfor %}"'))
    _, message = only_problem(tmp_path, text.format('"{{ text }}"'))
    assert "field of each of the items" in message
    _, message = only_problem(
        tmp_path, text.format('"{% for i in items %}{{ i.titel }}{% endfor %}"')
    )
    assert "'titel' is no declared field" in message


def test_content_hash_follows_what_the_file_says_and_not_how(tmp_path: Path) -> None:
    plain = load(tmp_path, GOOD).content_hash
    same = "# a comment\n" + GOOD.replace("A tagline.", "Taglines.").replace(
        "fields: [text, name]", "fields:\n  - text\n  - name", 1
    )
    assert load(tmp_path, same).content_hash == plain
    changes = [
        ("version: 2", "version: 3"),
        ("Shorten this", "Cut this"),
        ("empty: fail", "empty: flag"),
        ("default: 9", "default: 8"),
        ("You write taglines.", "You write."),
    ]
    hashes = {load(tmp_path, GOOD.replace(old, new)).content_hash for old, new in changes}
    assert len(hashes | {plain}) == len(changes) + 1


@pytest.mark.parametrize("text", ["", "- a\n", "kind: x\n", "stages: 3\nparams: 3\nchecks: []\n"])
def test_nonsense_files_are_manifest_errors(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


@pytest.mark.parametrize(
    "name",
    ["~nobody-of-that-name/x.yaml", "x" * 5000 + ".yaml"],
    ids=["no such user", "long name"],
)
def test_a_path_that_no_file_can_have_is_no_kind_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="no kind file"):
        kinds.load_kind(name, tmp_path)


def test_a_number_of_thousands_of_digits_in_a_template_is_a_problem_of_its_file(
    tmp_path: Path,
) -> None:
    document = "{{ name }}: {{ text }}"
    line, message = only_problem(tmp_path, GOOD.replace(document, "{{ " + "9" * 5000 + " }}"))
    assert (line, "digits" in message) == (13, True)


@pytest.mark.parametrize(
    ("bounds", "message"), [("min: {}", "at least 1"), ("max: -{}", "at most")]
)
def test_bounds_may_be_larger_than_any_float(tmp_path: Path, bounds: str, message: str) -> None:
    own = bounds.format("1" + "0" * 350)
    _, found = only_problem(tmp_path, GOOD.replace("min: 1, max: 20", own))
    assert message in found
