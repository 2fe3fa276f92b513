"""Renders the conversations of one job: the template with the job's variables and its date."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from thothy_batch.model.tokenizer.chat_template import ChatTemplate
from thothy_batch.model.tokenizer.clock import FIXED_DAY
from thothy_batch.model.tokenizer.control_tokens import Message
from thothy_batch.model.tokenizer.layout import Layout, Layouts, probe_layouts


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Everything that a job gives to the chat template beside its messages."""

    kwargs: str = "{}"  # JSON of chat_template_kwargs, so that settings can be compared
    now: datetime | None = None  # local time that the template's clock shows; None: this moment

    @classmethod
    def of(cls, kwargs: Mapping[str, object], now: datetime) -> "ChatSettings":
        """Make the settings of a job in a run that began at `now`."""
        return cls(json.dumps(kwargs), now.replace(tzinfo=None))

    def on_fixed_day(self) -> "ChatSettings":
        """Return the settings by which request keys are made: every run has the same date."""
        return replace(self, now=FIXED_DAY)


class Chat:
    """One template with one job's settings. The template is tried before its first use."""

    def __init__(self, template: ChatTemplate | None, settings: ChatSettings) -> None:
        self._template = template
        self._now = settings.now
        self._variables: dict[str, object] = json.loads(settings.kwargs)

    @property
    def reads_clock(self) -> bool:
        return self._template is not None and self._template.reads_clock

    def render(self, messages: Sequence[Message]) -> str:
        """Render a prompt. Without a template: the contents, each followed by a blank line.

        Raises ModelError for an unusable template, ChatRefusedError for these messages alone.
        """
        if self._template is None:
            return "".join(message["content"] + "\n\n" for message in messages)
        arranged = self._layouts.of(messages).arrange(messages)
        return self._template.render(arranged, self._variables, self._now)

    def check(self) -> None:
        """Try the template. Raises ModelError if it cannot print a user's text."""
        if self._template is not None:
            _ = self._layouts

    @cached_property
    def _layouts(self) -> Layouts:
        template = self._template
        assert template is not None
        return probe_layouts(
            lambda messages: template.render(messages, self._variables, self._now), template.where
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on what a user may not expect of the template."""
        if self._template is None:
            return ["chat_template_kwargs: no template reads them"] if self._variables else []
        notes, layout = [], self._layouts.with_system
        if isinstance(layout, Layout) and layout.system == "merged":
            notes.append(
                f"the model's chat template {layout.why_merged}: "
                "the system text is put before the user's text"
            )
        for name in sorted(self._variables.keys() - self._template.names):
            notes.append(f"chat_template_kwargs: the chat template reads no {name!r}")
        return notes
