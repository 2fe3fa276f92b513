"""Renders messages into the text of a prompt with the model's chat template, in a sandbox.

Templates come with checkpoints from the hub and are untrusted code: they run in Jinja2's immutable
sandbox with the few extensions that such templates expect.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from thothy_batch.errors import ModelError
from thothy_batch.templating import (
    BoundedSandbox,
    Extension,
    LoopControls,
    Namespace,
    Parser,
    SecurityError,
    TemplateError,
    bounded_filter,
    nodes,
)

Message = dict[str, str]

# Errors of a template with messages that it does not support.
_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class BeyondBoundsError(ModelError):
    """A template exceeded its limits with these messages; other rows may still pass."""


class ChatTemplate:
    """A compiled template. `render` raises ModelError for messages that the template refuses."""

    def __init__(self, source: str, named_tokens: dict[str, str]) -> None:
        self._named_tokens = named_tokens
        try:
            self._environment = _environment()
            self._template = self._environment.from_string(source)
        except _FAILURES as error:
            raise ModelError(
                f"the model's chat template cannot be read: {error}",
                hint="correct chat_template in tokenizer_config.json or chat_template.jinja",
            ) from error

    def render(self, messages: Sequence[Message]) -> str:
        """Render the prompt up to the beginning of the model's turn.

        Some templates have no system role (or only user and assistant in turn). If one refuses,
        the system text goes before the first user text, as model authors advise.
        """
        try:
            return self._render(messages)
        except _FAILURES as error:
            merged = _system_into_user(messages)
            if merged is None:
                raise _refusal(error) from error
        try:
            return self._render(merged)
        except _FAILURES as error:
            raise _refusal(error) from error

    def _render(self, messages: Sequence[Message]) -> str:
        self._environment.begin()
        return self._template.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._named_tokens,
        )


def find_template(directory: Path, settings: dict[str, Any]) -> str | None:
    """Return the source: chat_template.jinja, else `chat_template` of tokenizer_config.json."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    value = settings.get("chat_template")
    if isinstance(value, list):  # several named templates
        value = {entry.get("name"): entry.get("template") for entry in value}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) else None


def _system_into_user(messages: Sequence[Message]) -> list[Message] | None:
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    joined = messages[0]["content"] + "\n\n" + messages[1]["content"]
    return [{**messages[1], "content": joined}, *messages[2:]]


def _refusal(error: Exception) -> ModelError:
    kind = BeyondBoundsError if isinstance(error, SecurityError) else ModelError
    return kind(f"the model's chat template refused the messages: {error}")


def _environment() -> BoundedSandbox:
    environment = BoundedSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, LoopControls]
    )
    environment.filters["tojson"] = bounded_filter("tojson", _to_json, environment.made)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _PlainDict()
    environment.globals["namespace"] = _GuardedNamespace
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Format JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _PlainDict:
    """Provides `dict(...)` without access to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _GuardedNamespace(Namespace):
    """Provides `namespace(...)` without underscore names, which would escape the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N805  namespace(self=...) is legal
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_underscore(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: object) -> None:
        _refuse_underscore(name)
        Namespace.__setitem__(self, name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not set {name!r} on a namespace")


class _GenerationBlocks(Extension):
    """Renders `{% generation %}` blocks, which mark the assistant's text for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_content")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> str:
        return str(caller())
