"""Prompts of the built-in kinds, rendered by the product itself, and in the parts that it joins."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from thothy_batch.kinds import Kind, load_kind, resolve_params
from thothy_batch.kinds import render as render_kind

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def _kind(name: str) -> Kind:
    return load_kind(name, Path())


def sampling(kind: str) -> dict[str, Any]:
    """The kind's default sampling."""
    return dict(_kind(kind).sampling)


def render(kind: str, texts: list[str], **values: Any) -> list[dict[str, str]]:
    """The messages of one entry, as the product sends them."""
    return _render(kind, texts, values)[0]


def render_parts(kind: str, texts: list[str], **values: Any) -> tuple[str, str, str]:
    """System, document and instruction of one entry; `values` are params or `target_lang`."""
    messages, num_document_chars = _render(kind, texts, values)
    system, user = (message["content"] for message in messages)
    return system, user[:num_document_chars], user[num_document_chars:].strip()


def _render(
    name: str, texts: list[str], values: dict[str, Any]
) -> tuple[list[dict[str, str]], int]:
    kind = _kind(name)
    params = {key: value for key, value in values.items() if key in kind.params}
    variables = {
        "text": texts[0],
        "items": [{"text": text} for text in texts],
        "params": resolve_params(kind, params, {}),
        "target_lang": values.get("target_lang"),
    }
    prompt = render_kind(kind, 0, variables)
    return prompt.messages, prompt.num_document_chars


def prefix(system: str, document: str) -> str:
    """The part of the prompt that all kinds over one document share."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{document}"


def branch(instruction: str) -> str:
    """The rest of the prompt; it begins at a token border, so both may be encoded apart."""
    return f"\n\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
