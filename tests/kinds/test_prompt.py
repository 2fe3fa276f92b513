"""Templates: the layout of prompts, the sandbox, and what a bad row says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch import kinds
from thothy_batch.kinds import templates
from thothy_batch.kinds.kind import Stage
from thothy_batch.kinds.languages import language_name
from thothy_batch.templating.limits import MAX_RENDERED_CHARS

Make = Callable[..., kinds.Kind]


def summary_variables(text: str) -> dict[str, Any]:
    kind = kinds.load_kind("summary", Path())
    return {"text": text, "params": kinds.resolve_params(kind, {})}


def make_kind(document: str, **keys: Any) -> kinds.Kind:
    stages = (Stage("draft", keys.pop("instruction", "Do it.")),)
    return kinds.Kind("own", "hash", keys.pop("entry", "item"), stages, document=document, **keys)


def rendered(document: str, **variables: Any) -> str:
    prompt = kinds.render(make_kind(document), 0, variables)
    return prompt.messages[-1]["content"].removesuffix("\n\nDo it.").removesuffix("Do it.")


def test_prompt_is_system_then_document_then_instruction() -> None:
    kind = kinds.load_kind("summary", Path())
    prompt = kinds.render(kind, 0, summary_variables("  The Alba lamp.\n"))
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[0]["content"].endswith("units exactly.")
    user = prompt.messages[1]["content"]
    assert user.startswith("The Alba lamp.\n\nTask: summary. Summarise the text above in English")
    assert user.endswith("main figures.")
    assert user[: prompt.num_document_chars] == "The Alba lamp."


def test_kinds_over_one_document_share_everything_before_the_instruction() -> None:
    text = "The Alba lamp gives 300 lumens."
    users = []
    for name in ("summary", "hook", "translation", "report"):
        kind = kinds.load_kind(name, Path())
        params = kinds.resolve_params(kind, {})
        variables = {"text": text, "items": [{"text": text}], "target_lang": "de"}
        messages = kinds.render(kind, 0, {**variables, "params": params}).messages
        assert messages[0] == kinds.render(kind, 0, {**variables, "params": params}).messages[0]
        users.append(messages[1]["content"])
    assert {user.split("\n\n")[0] for user in users} == {text}
    assert len(set(users)) == 4


def test_report_holds_every_text_of_its_group_in_order() -> None:
    kind = kinds.load_kind("report", Path())
    items = [{"text": f"text {i}"} for i in range(3)]
    params = kinds.resolve_params(kind, {})
    user = kinds.render(kind, 0, {"items": items, "params": params}).messages[1]["content"]
    assert user.startswith("text 0\n\n---\n\ntext 1\n\n---\n\ntext 2\n\nTask: report.")
    assert "on the 3 texts above" in user


def test_empty_system_is_left_out() -> None:
    prompt = kinds.render(make_kind("{{ text }}"), 0, {"text": "a"})
    assert prompt.messages == [{"role": "user", "content": "a\n\nDo it."}]


def test_optional_fields_may_be_missing_and_render_as_nothing() -> None:
    kind = make_kind("{{ text }}[{{ brand }}]", fields=("text",), optional_fields=("brand",))
    assert "a[]" in kinds.render(kind, 0, {"text": "a"}).messages[0]["content"]
    assert "a[]" in kinds.render(kind, 0, {"text": "a", "brand": None}).messages[0]["content"]
    assert "a[B]" in kinds.render(kind, 0, {"text": "a", "brand": "B"}).messages[0]["content"]
    group = make_kind(
        "{% for i in items %}{{ i.brand }};{% endfor %}", optional_fields=("brand",), entry="group"
    )
    user = kinds.render(group, 0, {"items": [{}, {"brand": "B"}]}).messages[0]["content"]
    assert user.startswith(";B;")


@given(st.text())
def test_text_of_a_row_is_never_read_as_a_template(text: str) -> None:
    user = kinds.render(make_kind("<{{ text }}>"), 0, {"text": text}).messages[0]["content"]
    assert user == f"<{text}>\n\nDo it."


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("a\nb\n{{ 1 / x }}", "line 3: ZeroDivisionError"),
        ("{{ x.nothing }}", "has no attribute 'nothing'"),
        ("{{ text.__class__ }}", "unsafe"),
        ("{{ text | attr('__class__') }}", "unsafe"),
        ("{{ (text | attr)('__len__') }}", "TypeError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ params.update({'a': 1}) }}", "unsafe"),
        ("{{ '{0.__class__}'.format(text) }}", "unsafe"),
        ("{{ 'a' * 5000000 }}", "beyond 4,000,000 characters"),
        ("{{ [1] * 5000000 }}", "beyond 4,000,000 characters"),
        ("{{ 9 ** 9 ** 9 }}", "powers are not allowed"),
        ("{% for i in range(90000) %}{{ text * 99 }}{% endfor %}", "beyond 4,000,000"),
        ("{% for i in range(900000000) %}{% endfor %}", "OverflowError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
    ],
)
def test_templates_that_fail_or_reach_out_are_template_problems(
    template: str, message: str
) -> None:
    with pytest.raises(kinds.TemplateProblem, match=r"^template 'document'") as caught:
        rendered(template, text="word", x=0, params={})
    assert message in str(caught.value)


def test_nothing_random_reaches_a_prompt() -> None:
    assert not {"random", "shuffle"} & templates.FILTER_NAMES
    assert "lipsum" not in templates.GLOBAL_NAMES


def test_output_up_to_the_limit_is_rendered() -> None:
    text = "x" * (MAX_RENDERED_CHARS - 1)
    assert len(rendered("{{ text }}", text=text)) == len(text)
    with pytest.raises(kinds.TemplateProblem, match="grows beyond"):
        rendered("{{ text }}{{ text }}", text=text)


def test_templates_do_not_leak_from_row_to_row() -> None:
    template = "{% if text == 'a' %}{% set seen = 1 %}{% endif %}{{ seen is defined }}"
    assert rendered(template, text="a") == "true"
    assert rendered(template, text="b") == "false"


def test_templates_are_compiled_once_and_not_per_row() -> None:
    kind = kinds.load_kind("summary", Path())
    kinds.render(kind, 0, summary_variables("first"))
    compiled = templates.compile_template.cache_info().misses
    for i in range(100):
        kinds.render(kind, 0, summary_variables(f"row {i}"))
    assert templates.compile_template.cache_info().misses == compiled


@pytest.mark.parametrize(
    ("source", "head"),
    [
        ("Task: {{ x }}", "Task:"),
        ("  {# note #} a", ""),
        ("plain ", "plain"),
        ("a {% if b %}", "a"),
    ],
)
def test_literal_head_is_the_text_before_any_syntax(source: str, head: str) -> None:
    assert templates.literal_head(source) == head


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("de", "German"),
        ("DE", "German"),
        ("pt-BR", "Brazilian Portuguese"),
        ("pt_br", "Brazilian Portuguese"),
        ("pt-AO", "Portuguese"),
        ("zh-Hans", "Simplified Chinese"),
        ("zh-Hans-CN", "Simplified Chinese"),
        ("zh-TW", "Traditional Chinese"),
        ("no", "Norwegian"),
        ("tlh", "tlh"),
        ("German", "German"),
        ("", ""),
    ],
)
def test_language_codes_become_english_names(code: str, name: str) -> None:
    assert language_name(code) == name


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (r"{{ '\ud800' }}", "half of a surrogate pair"),
        ("{{ text.upper }}", "is () or | list missing?"),
        ("{{ text | map('upper') }}", "is () or | list missing?"),
    ],
)
def test_what_no_prompt_can_hold_is_a_template_problem(document: str, words: str) -> None:
    """Half of a pair ended the night in the tokenizer; a method showed where it lies in memory."""
    with pytest.raises(kinds.TemplateProblem) as caught:
        rendered(document, text="a")
    assert words in str(caught.value)
