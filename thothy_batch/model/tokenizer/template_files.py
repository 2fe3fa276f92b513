"""Finds the chat template among the files of a checkpoint, where transformers looks for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import (
    PROCESSOR_FILES,
    TEMPLATE_FILES,
    is_there,
    read_json_if_there,
    read_text,
)
from thothy_batch.model.tokenizer.token_settings import TOKENIZER_CONFIG, shown

_KEY = "chat_template"
_DEFAULT = "default"  # the name of the template for plain conversations


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """The text of a template, and its file and key."""

    text: str
    where: str


def find_template(directory: Path, settings: dict[str, Any]) -> TemplateSource | None:
    """Return the template: a file of its own, else of the tokenizer's settings, else a processor's.

    Raises ModelError, with file and key, where one is there but cannot be read.
    """
    for name in TEMPLATE_FILES:
        if is_there(directory / name):
            return TemplateSource(read_text(directory / name), str(directory / name))
    found = _default(settings.get(_KEY), directory / TOKENIZER_CONFIG)
    for name in PROCESSOR_FILES:
        if found is None:
            file = directory / name
            found = _default(read_json_if_there(file).get(_KEY), file)
    return found


def _default(value: object, file: Path) -> TemplateSource | None:
    """Return the one template, or that of the named ones which is named "default"."""
    if value is None or isinstance(value, str):
        return None if value is None else TemplateSource(value, f"{file}: {_KEY}")
    named = _named(value, file)
    if _DEFAULT not in named:
        names = ", ".join(sorted(named)) or "no template"
        raise ModelError(
            f"{file}: {_KEY} holds {names}, and none that is named {_DEFAULT!r}",
            hint=f"name the one for plain conversations {_DEFAULT!r}, or remove the key",
        )
    return TemplateSource(named[_DEFAULT], f"{file}: {_KEY} {_DEFAULT!r}")


def _named(value: object, file: Path) -> dict[str, str]:
    """Return templates by name, from a mapping or from a list of {name, template}."""
    if isinstance(value, list):
        entries = [e if isinstance(e, dict) else {} for e in value]
        pairs = [(entry.get("name"), entry.get("template")) for entry in entries]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = [(None, None)]
    named = {n: text for n, text in pairs if isinstance(n, str) and isinstance(text, str)}
    if len(named) < len(pairs):
        raise ModelError(
            f"{file}: {_KEY} is {shown(value)}, neither a text nor texts by name "
            "([{name: ..., template: ...}])",
            hint="correct it, or fetch the file again",
        )
    return named
