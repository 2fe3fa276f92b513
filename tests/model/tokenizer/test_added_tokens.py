"""Added tokens: ordinary ones are text, control tokens are made by the template alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.model.tokenizer.tokenizer import Tokenizer

ORDINARY = ["<h1>", "</h1>", "<table>", "<tr>", "<b>", "</b>", "<s>", "</s>", "[multimodal]"]
ORDINARY += ["\n", "\n\n", "\n\n\n", "\t", "  ", "    ", "<unused0>", "user"]
CONTROL = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "<|hole|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    "{# <h1> #}{% if think %}<think>{% endif %}"
)
HTML = [
    "<h1>Lamps</h1>\n\n<table><tr><td>12 <b>W</b></td></tr></table>\n    indented\n\n\n",
    "<h1><h1></h1> <b>a</b><b>b</b>  <s>old</s> <unused0> [multimodal] the user asks\n\n\n\n",
    "plain text, no tag at all",
    "<h2>not in the vocabulary</h2>",
]


def added(text: str, number: int) -> dict[str, Any]:
    special = text in CONTROL[:4]
    fields = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": special, **fields}


@pytest.fixture(scope="module")
def gemma_like(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Spaces become ▁, unknown characters bytes, HTML is in the vocabulary; and transformers'."""
    from transformers import AutoTokenizer

    pieces = ["<pad>", "<unk>", *CONTROL, *ORDINARY, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [chr(code) for code in range(33, 127)] + ["▁", "▁▁", "th", "he", "▁a"]
    vocab: dict[str, int] = {}
    for piece in pieces:
        vocab.setdefault(piece, len(vocab))
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(text, vocab[text]) for text in [*CONTROL, *ORDINARY]],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [["t", "h"], ["h", "e"], ["▁", "▁"], ["▁", "a"]],
        },
    }
    folder = tmp_path_factory.mktemp("gemma-like")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "chat_template": TEMPLATE,
            }
        )
    )
    (folder / "config.json").write_text("{}")
    return Tokenizer.from_dir(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"On {text}"}, {"role": "user", "content": text}]


def theirs(oracle: Any, messages: list[dict[str, str]]) -> list[int]:
    ids = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return list(ids)


def test_html_in_a_document_has_the_ids_of_the_vocabulary(gemma_like: Any) -> None:
    ours, oracle = gemma_like
    for text in HTML:
        assert ours.chat_ids(chat(text)) == theirs(oracle, chat(text)), text
    h1 = oracle.convert_tokens_to_ids("<h1>")
    assert h1 in ours.chat_ids(chat(HTML[0]))
    assert ours.chat_ids_batch([chat(t) for t in HTML]) == [ours.chat_ids(chat(t)) for t in HTML]


@pytest.mark.parametrize("token", CONTROL)
def test_no_text_makes_a_control_token(gemma_like: Any, token: str) -> None:
    ours, oracle = gemma_like
    number = oracle.convert_tokens_to_ids(token)
    frame = ours.chat_ids(chat("x")).count(number)
    text = f"<h1>{token}</h1> a{token}{token}\n\nb"
    ids = ours.chat_ids(chat(text))
    assert ids.count(number) == frame
    assert oracle.convert_tokens_to_ids("<h1>") in ids  # its neighbours stay what they are


@given(
    st.lists(st.one_of(st.sampled_from(ORDINARY), st.text(alphabet="<>/h1b sx\n", max_size=4))).map(
        "".join
    )
)
@settings(deadline=None, max_examples=60)
def test_ids_equal_transformers_for_any_text_without_control_tokens(
    gemma_like: Any, text: str
) -> None:
    ours, oracle = gemma_like
    assert ours.chat_ids(chat(text)) == theirs(oracle, chat(text))


@pytest.mark.parametrize("name", ["llama2-32k-phi3v", "minimind-6400"])
def test_html_equals_transformers_with_real_vocabularies(
    name: str, pair: Callable[[str], tuple[Tokenizer, Any]]
) -> None:
    ours, oracle = pair(name)
    for text in [*HTML, "a <b> & </b>\n\n\n   c\t\td <code>x</code>"]:
        text = text.replace("<s>", "").replace("</s>", "")  # which control Llama's vocabulary
        assert ours.chat_ids(chat(text)) == theirs(oracle, chat(text)), text


def test_counterparts_and_stop_tokens_control_too(stories: Path, edit_json: Any) -> None:
    """`</s>` is no special token in some files of Llama's vocabulary; it still ends texts."""
    content = json.loads((stories / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] == "<s>"
    (stories / "tokenizer.json").write_text(json.dumps(content))
    edit_json(
        stories / "tokenizer_config.json",
        eos_token=None,
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    ours = Tokenizer.from_dir(stories)
    assert 2 not in ours.chat_ids([{"role": "user", "content": "a</s>b"}])
    assert 1 not in ours.chat_ids([{"role": "user", "content": "a<s>b"}])
