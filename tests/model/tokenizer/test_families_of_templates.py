"""Templates in the manner of many families: equal to transformers', with the same variables."""

import importlib.util
import pickle
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.chat import ChatSettings
from thothy_batch.model.tokenizer.chat_template import ChatTemplate
from thothy_batch.model.tokenizer.tokenizer import Tokenizer

DAY = datetime(2026, 5, 7, 8, 9)
LLAMA_3 = """\
{{- bos_token }}
{%- set day = date_string if date_string is defined else strftime_now("%d %b %Y") %}
{%- set first = messages[0] if messages[0].role == "system" else {"content": ""} %}
{{- "<|head|>system<|/head|>\\n\\nDate: " + day + "\\n\\n" + first["content"] | trim + "<|eot|>" }}
{%- for turn in messages if turn.role != "system" %}
    {{- "<|head|>" + turn["role"] + "<|/head|>\\n\\n" + turn["content"] | trim + "<|eot|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|head|>assistant<|/head|>\\n\\n" }}
{%- endif %}
"""
QWEN_3 = """\
{%- set state = namespace(seen=false, asked=0) %}
{%- for turn in messages[::-1] %}
    {%- if turn.role == "user" and turn.content is string and not state.seen %}
        {%- set state.seen = true %}
        {%- set state.asked = messages | length - loop.index %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set text = turn.content %}
    {%- if turn.role == "assistant" and loop.index0 < state.asked %}
        {%- set text = text.split("</think>")[-1].lstrip("\\n") %}
    {%- endif %}
    {{- "<|im_start|>" ~ turn.role ~ "\\n" ~ text ~ "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- "<think>\\n\\n</think>\\n\\n" }}
    {%- endif %}
{%- endif %}
"""
R1_DISTILL = """\
{%- set found = namespace(system="") -%}
{%- for turn in messages if turn["role"] == "system" %}{% set found.system = turn["content"] %}
{%- endfor -%}
{{ bos_token ~ found.system }}
{%- for turn in messages -%}
  {%- if turn["role"] == "user" %}{{ "<｜User｜>" ~ turn["content"] }}{% endif -%}
  {%- if turn["role"] == "assistant" -%}
    {{ "<｜Assistant｜>" ~ (turn["content"].split("</think>") | last) ~ "<｜end▁of▁sentence｜>" }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt | default(false) %}{{ "<｜Assistant｜><think>\\n" }}
{%- endif %}"""
GEMMA = """\
{{ bos_token }}
{%- if messages | selectattr("role", "equalto", "system") | list -%}
  {{ raise_exception("there is no system role") }}
{%- endif -%}
{%- for turn in messages -%}
  {%- if turn.role != ["user", "assistant"][loop.index0 % 2] -%}
    {{ raise_exception("users and models take turns") }}
  {%- endif -%}
  {{ "<start_of_turn>" ~ {"assistant": "model"}.get(turn.role, turn.role) ~ "\\n" }}
  {{- turn.content | trim ~ "<end_of_turn>\\n" }}
{%- endfor -%}
{{ "<start_of_turn>model\\n" if add_generation_prompt }}"""
MISTRAL = """\
{{- bos_token }}
{%- for turn in messages %}
    {%- if turn["role"] == "user" %}
        {{- "[INST] " }}
        {%- if loop.last and messages[0]["role"] == "system" %}
            {{- messages[0]["content"] ~ "\\n\\n" }}
        {%- endif %}
        {{- turn["content"] ~ "[/INST]" }}
    {%- elif turn["role"] == "assistant" %}
        {{- " " ~ turn["content"] | trim ~ eos_token }}
    {%- elif not loop.first %}
        {{- raise_exception("a system text stands first") }}
    {%- endif %}
{%- endfor %}
"""
PHI = """\
{% for turn in messages if turn["content"] %}<|{{ turn["role"] }}|>
{{ turn["content"] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""
SMOL_3 = """\
{% set thinks = enable_thinking | default(true) %}
{% set system = messages[0].content if messages[0].role == "system" else "" %}
{{ "<|im_start|>system\\nDate: " ~ strftime_now("%d %B %Y") ~ "\\n" }}
{{ "Mode: " ~ ("/think" if thinks else "/no_think") ~ "\\n\\n" }}
{{ system.replace("/no_think", "").rstrip() ~ "\\n\\n<|im_end|>\\n" }}
{% for turn in messages if turn.role != "system" %}
    {% if turn.role == "user" %}
        {{ "<|im_start|>user\\n" + turn.content + "<|im_end|>\\n" }}
    {% else %}
        {% generation %}
        {{ "<|im_start|>assistant\\n" + turn.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {% endgeneration %}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{ "<|im_start|>assistant\\n" ~ ("" if thinks else "<think>\\n\\n</think>\\n") }}
{% endif %}
"""
HARMONY = """\
{%- macro head(role) %}{{ "<|start|>" ~ role ~ "<|message|>" }}{% endmacro -%}
{{- head("system") ~ "Date: " ~ strftime_now("%Y-%m-%d") ~ "\\nEffort: " }}
{{- reasoning_effort | default("medium") ~ "<|end|>" }}
{%- for turn in messages %}
    {%- set role = {"system": "developer"}.get(turn.role, turn.role) %}
    {{- head(role) ~ ("# Instructions\\n\\n" if role == "developer") ~ turn.content ~ "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
EXTRAS = """\
{%- for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}
    {{ m | tojson }}{{ m.items() | list | length }}{{ {'é': '<&>'} | tojson(indent=2) }}
{% endfor %}
{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ eos_token }}{{ pad_token }}
{{ dict(a=1) }}{{ dict.fromkeys(['a', 'b'], 0) }}{{ tools is none }}{{ documents is none }}
{%- for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"""

# (template, variables)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3": (LLAMA_3, {}),
    "llama-3-on-one-day": (LLAMA_3, {"date_string": "26 Jul 2024"}),
    "qwen-3": (QWEN_3, {}),
    "qwen-3-without-thinking": (QWEN_3, {"enable_thinking": False}),
    "r1-distill": (R1_DISTILL, {}),
    "gemma": (GEMMA, {}),
    "mistral": (MISTRAL, {}),
    "phi": (PHI, {}),
    "smollm-3": (SMOL_3, {}),
    "smollm-3-without-thinking": (SMOL_3, {"enable_thinking": False}),
    "gpt-oss": (HARMONY, {}),
    "gpt-oss-high": (HARMONY, {"reasoning_effort": "high"}),
    "extras": (EXTRAS, {"bos_token": "given", "unknown": [1, {"a": None}]}),
}
CONVERSATIONS = [
    [{"role": "user", "content": " Zażółć\n\n <b>x</b> {{ 1 }} "}],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hello there"}],
    [
        {"role": "user", "content": "Name a tree."},
        {"role": "assistant", "content": "<think>\nThere are many.\n</think>\n\nOak"},
        {"role": "user", "content": "Name another."},
    ],
]


class _Frozen(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return DAY


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The text of transformers on DAY."""
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", _Frozen)

    def render(oracle: Any, messages: Any, variables: dict[str, Any]) -> str:
        return str(
            oracle.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **variables
            )
        )

    return render


def prepared(stories: Path, template: str) -> tuple[Tokenizer, Any]:
    from transformers import AutoTokenizer

    (stories / "chat_template.jinja").write_text(template, encoding="utf-8")
    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    return Tokenizer.from_dir(stories), oracle


def forms_of(messages: list[dict[str, str]]) -> list[Any]:
    """The messages as they are, as parts, and with the system text merged into the user's."""
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    forms: list[Any] = [messages, parts]
    if messages[0]["role"] == "system":
        joined = messages[0]["content"] + "\n\n" + messages[1]["content"]
        forms.append([{"role": "user", "content": joined}, *messages[2:]])
    return forms


def compare(ours: Tokenizer, oracle: Any, variables: dict[str, Any], theirs: Any) -> int:
    """Compare all conversations that transformers renders; returns how many these are."""
    bound = ours.with_chat(ChatSettings.of(variables, DAY))
    num = 0
    for messages in CONVERSATIONS:
        asked = [m["content"].strip() for m in messages if m["role"] != "assistant"]
        for form in forms_of(messages):
            try:
                text = theirs(oracle, form, variables)
            except Exception:  # whatever its template refuses
                continue
            if all(part in text for part in asked):
                break
        else:
            continue  # it drops a text in every form
        num += 1
        assert bound.render_chat(messages) == text
        if "think>" not in str(messages):
            ids = oracle.apply_chat_template(
                form, add_generation_prompt=True, return_dict=False, **variables
            )
            assert bound.chat_ids(messages) == ids
    return num


@pytest.mark.parametrize("name", FAMILIES)
def test_templates_equal_transformers(name: str, stories: Path, theirs: Any) -> None:
    template, variables = FAMILIES[name]
    ours, oracle = prepared(stories, template)
    num_escaped = 1 if name == "extras" else 0  # its JSON shows a line's end as two characters
    assert compare(ours, oracle, variables, theirs) == len(CONVERSATIONS) - num_escaped
    bound = ours.with_chat(ChatSettings.of(variables, DAY))
    assert bound.reads_clock == (name.startswith(("llama-3", "smollm", "gpt-oss")))


def packaged_templates() -> list[Path]:
    """Template files of packages that are installed beside us; none of them is ours."""
    found = []
    for package in ("trl", "axolotl", "unsloth"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            found += sorted(Path(folder).rglob("*.jinja"))
    return found


@pytest.mark.rest
def test_templates_of_training_packages_equal_transformers(stories: Path, theirs: Any) -> None:
    files = packaged_templates()
    if not files:
        pytest.skip("none of trl, axolotl and unsloth is installed")
    compared = 0
    for file in files:
        ours, oracle = prepared(stories, file.read_text(encoding="utf-8"))
        with suppress(ModelError):  # needs more than messages: it is refused
            ours.check_chat()
        for variables in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
            compared += compare(ours, oracle, variables, theirs)
    assert compared > 6 * len(files)  # of nine each; some refuse an assistant's turn


def test_the_variables_of_a_job_are_its_own(stories: Path) -> None:
    (stories / "chat_template.jinja").write_text(
        "{{ messages | join('', attribute='content') }}|{{ x }}|"
        "{{ strftime_now('%Y') }}{{ '<think>' if think }}"
    )
    ours = Tokenizer.from_dir(stories)
    chat = [{"role": "user", "content": "U"}]
    one = ours.with_chat(ChatSettings.of({"x": 1}, DAY))
    two = ours.with_chat(ChatSettings.of({"x": [2], "think": True, "y": 0}, DAY.replace(year=2031)))
    assert one.render_chat(chat) == "U|1|2026"
    assert two.render_chat(chat) == "U|[2]|2031<think>"
    assert one.chat_notes == []
    assert two.chat_notes == ["chat_template_kwargs: the chat template reads no 'y'"]
    again = pickle.loads(pickle.dumps(two))
    assert again.render_chat(chat) == two.render_chat(chat)
    assert ours.with_chat(ChatSettings.of({"x": 1}, DAY)) is one


def test_variables_without_a_template_are_noted(stories: Path) -> None:
    ours = Tokenizer.from_dir(stories)
    assert ours.chat_notes == []
    given = ours.with_chat(ChatSettings.of({"enable_thinking": False}, DAY))
    assert given.chat_notes == ["chat_template_kwargs: no template reads them"]


def test_constants_of_a_template_are_bounded_while_it_is_compiled() -> None:
    for template in ("{{ 'a' | center(999999999) }}", "{{ 'a' * 999999999 }}"):
        with pytest.raises(ModelError, match="characters"):
            ChatTemplate(template, {}).render([{"role": "user", "content": "a"}])
