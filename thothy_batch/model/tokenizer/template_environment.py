"""Makes the Jinja2 sandbox of chat templates, with what transformers gives them.

Templates come with checkpoints from the hub and are untrusted code: they run in Jinja2's immutable
sandbox with the few extensions that such templates expect. The date is a variable of each
rendering, not a function of the machine.
"""

import json
from typing import Any, NoReturn

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


def template_environment() -> BoundedSandbox:
    """Return a sandbox for one chat template."""
    environment = BoundedSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, LoopControls]
    )
    environment.filters["tojson"] = bounded_filter("tojson", _to_json, environment.made)
    environment.globals["raise_exception"] = _raise_exception
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


class _PlainDict:
    """Provides `dict(...)` without access to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


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
