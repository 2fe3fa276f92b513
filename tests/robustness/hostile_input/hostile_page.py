"""The report's page and text, held against those of a night whose every word is "x"."""

from html.parser import HTMLParser
from typing import Any

from hostile_checks import check_terminal

from thothy_batch.report import report_blocks, to_text
from thothy_batch.report.html import render_html

# Words that decide what the report says: they are the program's own.
_OWN = ("status", "stop_reason", "code", "started_at", "finished_at", "happened_at")
_NEVER = {
    "script",
    "link",
    "img",
    "iframe",
    "object",
    "base",
    "form",
    "a",
    "embed",
    "foreignobject",
}


class _Parts(HTMLParser):
    """The tags with their attributes in order, and all text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.others: list[str] = []  # comments, declarations, processing instructions
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_decl(self, decl: str) -> None:
        self.others.append(decl)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)


def check_page(page: str, data: dict[str, Any]) -> None:
    """No word of the night made a tag, an attribute or a comment of the page."""
    parts, tame = _Parts(page), _Parts(render_html(tamed(data)))
    assert parts.tags == tame.tags
    assert parts.others == tame.others == ["doctype html"]
    names = {tag for tag, _ in parts.tags}
    assert {"table", "h1", "title"} <= names
    assert not names & _NEVER
    attributes = {name for _, attrs in parts.tags for name, _ in attrs}
    assert not {name for name in attributes if name.startswith("on")}
    assert not attributes & {"src", "href", "xlink:href", "srcset", "action", "srcdoc"}
    check_terminal(page)


def check_text(text: str, data: dict[str, Any]) -> None:
    """No word of the night made a line of the report, nor a terminal do anything."""
    check_terminal(text)
    assert "\t" not in text
    assert len(text.splitlines()) == len(to_text(report_blocks(tamed(data))).splitlines())


def tamed(value: Any, name: str = "") -> Any:
    """The report's data with "x" for every text that is not the program's own."""
    if isinstance(value, dict):
        if name in ("model", "engine", "versions", "finish_reasons"):
            return {f"x{place}": tamed(part) for place, part in enumerate(value.values())}
        return {key: tamed(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [tamed(part, name) for part in value]
    return "x" if isinstance(value, str) and name not in _OWN else value
