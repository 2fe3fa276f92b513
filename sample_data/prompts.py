"""Renders a kind's prompt exactly as the product does: `jobs/*.yaml`, Jinja2, chat template."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

JOBS = Path(__file__).resolve().parent.parent / "jobs"
LANGUAGE_NAMES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French"}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined)
_ENVIRONMENT.filters["language_name"] = LANGUAGE_NAMES.__getitem__


@cache
def load_kind(kind: str) -> dict[str, Any]:
    """The kind file as plain data."""
    return yaml.safe_load((JOBS / f"{kind}.yaml").read_text(encoding="utf-8"))


@cache
def _template(source: str) -> Any:
    return _ENVIRONMENT.from_string(source)


def render_parts(kind: str, texts: list[str], **values: Any) -> tuple[str, str, str]:
    """System, document and instruction of one entry; `values` are params or `target_lang`."""
    spec = load_kind(kind)
    params = {name: param.get("default") for name, param in spec["params"].items()}
    params |= {name: value for name, value in values.items() if name in params}
    context = {
        "text": texts[0],
        "items": [{"text": text} for text in texts],
        "params": params,
        "target_lang": values.get("target_lang"),
    }
    sources = (spec["system"], spec["document"], spec["stages"][0]["instruction"])
    system, document, instruction = (_template(s).render(context).strip() for s in sources)
    return system, document, instruction


def render(kind: str, texts: list[str], **values: Any) -> list[dict[str, str]]:
    """The messages of one entry, as the product sends them."""
    system, document, instruction = render_parts(kind, texts, **values)
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{document}\n\n{instruction}"},
    ]


def prefix(system: str, document: str) -> str:
    """The part of the prompt that all kinds over one document share."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{document}"


def branch(instruction: str) -> str:
    """The rest of the prompt; it begins at a token border, so both may be encoded apart."""
    return f"\n\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
