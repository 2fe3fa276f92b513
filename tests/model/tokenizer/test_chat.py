"""Prompts from messages: equal to transformers, and no message makes a control token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.tokenizer import Tokenizer

Pair = Callable[[str], tuple[Tokenizer, Any]]
WITH_TEMPLATE = ["qwen2", "llama2-32k-phi3v", "minimind-6400"]
CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write\n\n a line. "}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    + [{"role": "user", "content": "日本語 {{ 1 }} {% raw %}"}],
]


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_chat_equals_transformers(name: str, pair: Pair, texts: list[str]) -> None:
    ours, oracle = pair(name)
    conversations = CONVERSATIONS + [
        [{"role": "system", "content": text}, {"role": "user", "content": text}] for text in texts
    ]
    assert ours.has_chat_template
    for messages in conversations:
        text = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.render_chat(messages) == text
        ids = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ours.chat_ids(messages) == ids
    assert ours.chat_ids_batch(conversations) == [ours.chat_ids(m) for m in conversations]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_no_message_makes_a_control_token(name: str, pair: Pair) -> None:
    ours, oracle = pair(name)
    control = {i for i, t in oracle.added_tokens_decoder.items() if not t.content.isspace()}
    empty = [[i for i in ours.chat_ids(_chat("")) if i in control]]
    for i, token in oracle.added_tokens_decoder.items():
        if i not in control:
            continue
        for text in (token.content, f"a{token.content}b {token.content}{token.content}\n"):
            ids = ours.chat_ids(_chat(text))
            assert [[i for i in ids if i in control]] == empty, token.content
            assert text.strip() in ours.decode(ids, skip_special=False)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_control_texts_are_encoded_like_transformers_does_on_request(name: str, pair: Pair) -> None:
    ours, oracle = pair(name)
    special = [t.content for t in oracle.added_tokens_decoder.values() if t.special][:6]
    for text in [*special, " ".join(special), f"x\n{special[0]}y{special[-1]}", "\U000f0000" * 2]:
        expected = oracle.apply_chat_template(
            _chat(text),
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
        if "\U000f0000" not in text:  # transformers drops its own marks from the text
            assert ours.chat_ids(_chat(text)) == expected


PIECES = [
    "<|im_end|>",
    "<|im_start|>",
    "<think>",
    "</s>",
    "<",
    "|>",
    "im_end",
    " ",
    "\n",
    "é",
    "日",
]


@given(pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_text_keeps_the_frame_of_its_chat(pair: Pair, pieces: list[str]) -> None:
    """Control tokens stand where the template put them, and the text comes back as it was."""
    ours, _ = pair("minimind-6400")
    text = "".join(pieces)
    ids = ours.chat_ids(_chat(text))
    empty = ours.chat_ids(_chat(""))
    control = range(36)  # of this vocabulary
    assert [i for i in ids if i in control] == [i for i in empty if i in control]
    assert ours.decode(ids, skip_special=False) == ours.render_chat(_chat(text))


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[' + m['role'] + '] ' + m['content'] | trim + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def test_bos_stands_once_where_the_template_writes_it(
    stories: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(stories / "tokenizer_config.json", chat_template=LLAMA_LIKE)
    from transformers import AutoTokenizer

    ours = Tokenizer.from_dir(stories)
    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    for messages in CONVERSATIONS:
        ids = ours.chat_ids(messages)
        assert ids.count(1) == 1
        assert ids[0] == 1
        assert ids == oracle.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )


def test_without_a_template_contents_follow_each_other(stories: Path) -> None:
    ours = Tokenizer.from_dir(stories)
    messages = [{"role": "system", "content": "One."}, {"role": "user", "content": "Two."}]
    assert not ours.has_chat_template
    assert ours.render_chat(messages) == "One.\n\nTwo.\n\n"
    assert ours.chat_ids(messages) == ours.encode_raw("One.\n\nTwo.\n\n")
    assert ours.chat_ids([{"role": "user", "content": "a </s> b"}]).count(2) == 0


def test_template_file_comes_before_the_settings(
    stories: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(
        stories / "tokenizer_config.json",
        chat_template=[
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": "by name {{ messages[0].content }}"},
        ],
    )
    chat = [{"role": "user", "content": "x"}]
    assert Tokenizer.from_dir(stories).render_chat(chat) == "by name x"
    (stories / "chat_template.jinja").write_text("from the file {{ messages[0].content }}")
    assert Tokenizer.from_dir(stories).render_chat(chat) == "from the file x"


def test_system_text_joins_the_user_where_a_template_knows_no_system(
    stories: Path, edit_json: Callable[..., None]
) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    edit_json(stories / "tokenizer_config.json", chat_template=template)
    ours = Tokenizer.from_dir(stories)
    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}
    assert ours.render_chat([system, user]) == "<user>S\n\nU"
    with pytest.raises(ModelError, match="no system role"):
        ours.render_chat([system])


def test_template_extras(stories: Path, edit_json: Callable[..., None]) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}\n"
        "    {% generation %}{{ m | tojson }}{% endgeneration %}\n"
        "{% endfor %}"
        "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
        "{{ strftime_now('%Y') | length }}{{ dict(a=1) }}{{ eos_token }}"
    )
    edit_json(stories / "tokenizer_config.json", chat_template=template)
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    messages = [{"role": "user", "content": "<é & ä>"}, {"role": "assistant", "content": "x"}]
    expected = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert Tokenizer.from_dir(stories).render_chat(messages) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(_x=1) }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_templates_run_in_a_sandbox(
    template: str, stories: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(stories / "tokenizer_config.json", chat_template=template)
    ours = Tokenizer.from_dir(stories)
    with pytest.raises(ModelError, match="chat template"):
        ours.render_chat([{"role": "user", "content": "x"}])


def test_a_template_with_a_mistake_is_refused_at_once(
    stories: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(stories / "tokenizer_config.json", chat_template="{% for %}")
    with pytest.raises(ModelError, match="chat template cannot be read"):
        Tokenizer.from_dir(stories)
