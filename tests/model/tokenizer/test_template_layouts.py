"""Templates that drop or refuse a text: it reaches the model in another form, or nothing starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.tokenizer import Tokenizer

LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
USER_ONLY = "{% for m in messages if m.role == 'user' %}[user]{{ m.content }}{% endfor %}>"
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + LOOP
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}"
    "{% endfor %}>"
)
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}>"
)
PARTS_ADDED = "{% for m in messages %}[{{ m.role }}]{{ m.content[0]['text'] + '' }}{% endfor %}>"
MIXED = (
    "[system]{{ messages[0].content if messages[0].role == 'system' }}"
    "[user]{% for part in messages[-1].content %}{{ part.text }}{% endfor %}>"
)
PARTS_WITHOUT_SYSTEM = PARTS.replace("in messages", "in messages if m.role == 'user'", 1)
EITHER = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}"
    "{% else %}parts{% endif %}{% endfor %}>"
)
FIRST_HALF = LOOP.replace("m.content", "m.content[:40]")
CHAT = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]

AS_IT_IS, MERGED = "[system]S[user]U>", "[user]S\n\nU>"


@pytest.fixture
def with_template(stories: Path, edit_json: Callable[..., None]) -> Callable[[str], Tokenizer]:
    def make(template: str) -> Tokenizer:
        edit_json(stories / "tokenizer_config.json", chat_template=template)
        return Tokenizer.from_dir(stories)

    return make


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (LOOP, AS_IT_IS),
        (EITHER, AS_IT_IS),
        (NO_SYSTEM + ">", MERGED),
        (USER_ONLY, MERGED),
        (REFUSES, MERGED),
        (ALTERNATE, MERGED),
        (PARTS, AS_IT_IS),
        (PARTS_ADDED, AS_IT_IS),
        (MIXED, AS_IT_IS),
        (PARTS_WITHOUT_SYSTEM, MERGED),
    ],
)
def test_every_text_reaches_the_prompt(
    template: str, prompt: str, with_template: Callable[[str], Tokenizer]
) -> None:
    ours = with_template(template)
    ours.check_chat()
    assert ours.render_chat(CHAT) == prompt
    assert ours.render_chat(CHAT[1:]).endswith("[user]U>")
    merged = [note for note in ours.chat_notes if "before the user's text" in note]
    assert bool(merged) == (prompt == MERGED)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("Hello.", "drops the user's text"),
        ("{{ messages[0].role }}", "drops the user's text"),
        ("{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}", "drops"),
        (FIRST_HALF, "drops the user's text"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{{ messages[3].content.strip() }}", "refused the messages"),
        ("{{ messages[0].content }}{{ messages.append(1) }}", "unsafe"),
        ("{{ '\\ud800' }}{{ messages[0].content }}", "surrogate"),
    ],
)
def test_a_template_that_prints_no_users_text_is_refused_by_file_and_key(
    template: str, fault: str, with_template: Callable[[str], Tokenizer]
) -> None:
    ours = with_template(template)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: chat_template: .*") as caught:
        ours.check_chat()
    assert fault in caught.value.message
    with pytest.raises(ModelError):
        ours.render_chat(CHAT)


def test_parts_are_marked_like_texts(with_template: Callable[[str], Tokenizer]) -> None:
    """A control token's text in a part is text as well."""
    ours = with_template(PARTS)
    ids = ours.chat_ids([{"role": "user", "content": "a</s>b"}])
    assert 2 not in ids
    assert ours.decode(ids, skip_special=False) == "[user]a</s>b>"


def test_what_transformers_takes_is_left_as_it_is(
    with_template: Callable[[str], Tokenizer], stories: Path
) -> None:
    from transformers import AutoTokenizer

    for template in (LOOP, EITHER, "{{ messages }}", "{{ messages | tojson }}"):
        ours = with_template(template)
        oracle: Any = AutoTokenizer.from_pretrained(stories, local_files_only=True)
        text = oracle.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        assert ours.render_chat(CHAT) == text
