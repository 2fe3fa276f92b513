"""Compiles a chat template and renders messages with it into the text of a prompt."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.clock import format_moment
from thothy_batch.model.tokenizer.template_environment import template_environment
from thothy_batch.templating import SecurityError, TemplateError, jinja, nodes

# A message's content is a text, or for some templates a list of parts.
TemplateMessage = Mapping[str, object]

MAX_SOURCE_CHARS = 500_000  # 25 times the longest known one; compiling takes seconds from there
# Errors of a template with messages that it does not support.
_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,  # too many nested blocks: Python itself compiles them
    TypeError,
    ValueError,
)


class ChatRefusedError(ModelError):
    """A template refused these messages or exceeded its limits; other rows may still pass."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final  # the sandbox stopped it: other messages fare no better


class ChatTemplate:
    """A compiled template. `where` names its file and key in messages."""

    def __init__(
        self, source: str, named_tokens: Mapping[str, str], where: str = "the model's settings"
    ) -> None:
        self._named_tokens = dict(named_tokens)
        self.where = where
        try:
            if len(source) > MAX_SOURCE_CHARS:
                raise ValueError(f"it has more than {MAX_SOURCE_CHARS:,} characters")
            self._environment = template_environment()
            self._environment.begin()  # constants are folded while it is compiled
            tree = self._environment.parse(source)
            self.literal_text = _literal_text(tree)
            # Names that it reads, its own among them: what is not here changes nothing.
            self.names = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
            self._template = self._environment.from_string(tree)
        except _FAILURES as error:
            raise ModelError(
                f"{where}: the chat template cannot be read: {_cause(error)}",
                hint="correct it, or fetch the file again",
            ) from error

    @property
    def reads_clock(self) -> bool:
        """True if its text may depend on the date."""
        return "strftime_now" in self.names

    def render(
        self,
        messages: Sequence[TemplateMessage],
        variables: Mapping[str, object] | None = None,
        now: datetime | None = None,
    ) -> str:
        """Render the prompt up to the beginning of the model's turn. Raises ChatRefusedError.

        `variables` come before the named tokens. `now` is what the template's clock shows, by
        default this moment.
        """
        moment = datetime.now() if now is None else now
        values: dict[str, Any] = {
            "strftime_now": lambda form: format_moment(moment, form),
            **self._named_tokens,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        try:
            self._environment.begin()
            text = self._template.render(values)
            text.encode()  # half of a surrogate pair, which no tokenizer takes
        except _FAILURES as error:
            raise ChatRefusedError(
                f"the model's chat template refused the messages: {_cause(error)}",
                is_final=isinstance(error, SecurityError),
            ) from error
        return text


def _cause(error: Exception) -> str:
    """Return the error's words, with the line of a syntax error."""
    if isinstance(error, UnicodeEncodeError):
        return "its text holds half of a surrogate pair"
    if isinstance(error, jinja.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    return str(error) or type(error).__name__


def _literal_text(tree: nodes.Template) -> str:
    """Return all text that the template itself can write, pieces apart by a null character."""
    pieces = [node.data for node in tree.find_all(nodes.TemplateData)]
    pieces += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(pieces)
