"""Finds the form in which a chat template takes messages, by rendering marked texts.

Templates differ in what they do with a system text: print it, refuse it, or drop it without a
word; some print a content only as a list of parts. A dropped text shows only in the artifacts, so
every template is tried before a run.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.chat_template import ChatRefusedError, TemplateMessage
from thothy_batch.model.tokenizer.control_tokens import Message

Form = Literal["text", "parts", "merged"]
Render = Callable[[Sequence[TemplateMessage]], str]

# Each at the beginning and the end of a text, so that a cut text is noticed too.
_SYSTEM = ("thothysystembegin", "thothysystemend")
_USER = ("thothyuserbegin", "thothyuserend")
_LIST = re.compile(r"""["']text["']\s*:\s*["']thothy""")  # a part printed as Python or JSON
_MESSAGES: list[Message] = [
    {"role": "system", "content": " one two.\n\nThree, four ".join(_SYSTEM)},
    {"role": "user", "content": " five six.\n\nSeven, eight ".join(_USER)},
]


@dataclass(frozen=True, slots=True)
class Layout:
    """The form of system and other messages. `merged`: the system text opens the user's."""

    system: Form
    user: Form
    why_merged: str = ""

    @property
    def has_parts(self) -> bool:
        return "parts" in (self.system, self.user)

    def arrange(self, messages: Sequence[Message]) -> list[TemplateMessage]:
        """Return the messages in this form. Raises ChatRefusedError where nothing fits."""
        if self.system == "merged":
            messages = self._merged(messages)
        return [self._formed(message) for message in messages]

    def _merged(self, messages: Sequence[Message]) -> Sequence[Message]:
        system = messages[0]
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise ChatRefusedError(
                f"the model's chat template {self.why_merged}, and no user's text follows it"
            )
        joined = system["content"] + "\n\n" + messages[1]["content"]
        return [{**messages[1], "content": joined}, *messages[2:]]

    def _formed(self, message: Message) -> TemplateMessage:
        form = self.system if message["role"] == "system" else self.user
        if form != "parts":
            return message
        return {**message, "content": [{"type": "text", "text": message["content"]}]}


@dataclass(frozen=True, slots=True)
class Layouts:
    """The layouts of conversations with and without a system text, or why there is none."""

    with_system: Layout | str
    without: Layout | str

    def of(self, messages: Sequence[Message]) -> Layout:
        """Return the layout of these messages. Raises ChatRefusedError where there is none."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        found = self.with_system if has_system else self.without
        if isinstance(found, str):
            raise ChatRefusedError(f"the model's chat template {found}")
        return found


def probe_layouts(render: Render, where: str) -> Layouts:
    """Try the template. ModelError, with `where`, if it prints no user's text in any form."""
    try:
        without = _first(render, _MESSAGES[1:], [Layout("text", "text"), Layout("text", "parts")])
        with_system = _first(
            render,
            _MESSAGES,
            [
                Layout("text", "text"),
                Layout("parts", "parts"),
                Layout("text", "parts"),
                Layout("parts", "text"),
            ],
        )
    except ChatRefusedError as error:
        raise ModelError(f"{where}: {error.message}") from error
    if isinstance(with_system, str) and isinstance(without, Layout):
        with_system = Layout("merged", without.user, with_system)
    if isinstance(with_system, str):
        raise ModelError(
            f"{where}: the model's chat template {without}",
            hint="correct the template, or set what it needs in model.chat_template_kwargs",
        )
    return Layouts(with_system, without)


def _first(render: Render, messages: list[Message], layouts: list[Layout]) -> Layout | str:
    """Return the first layout in which every text is printed, else the first one's fault."""
    faults = []
    for layout in layouts:
        fault, text = _try(render, layout.arrange(messages), messages)
        fault = fault or ("prints lists" if _LIST.search(text) and layout.has_parts else "")
        if not fault:
            return layout
        faults.append(fault)
    return faults[0]


def _try(
    render: Render, arranged: list[TemplateMessage], messages: list[Message]
) -> tuple[str, str]:
    """Return the fault of a form, "" if it has none, and the prompt."""
    try:
        text = render(arranged)
    except ChatRefusedError as error:
        if error.is_final:
            raise
        return error.message.removeprefix("the model's chat template "), ""
    for message in messages:
        whose = "the system text" if message["role"] == "system" else "the user's text"
        if not all(mark in text for mark in message["content"].split() if "thothy" in mark):
            return f"drops {whose}", text
    return "", text
