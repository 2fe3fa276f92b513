"""Lays out a command's text for a terminal or a pipe: lines, pairs, tables of figures.

Widths are counted in terminal cells, of which a CJK character or an emoji takes two.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from thothy_batch.report.formatting import escape_controls

PIPE_WIDTH = 100
_INDENT = 2
_GAP = 2  # cells between two columns
_FAIR_TEXT = 12  # mean cells of a text column, below which a table is split instead
_MIN_TEXT = 8  # cells that a text column keeps in the narrowest window


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence: wrapped at words on a terminal, one line in a pipe (`grep` finds it whole).

    `is_verbatim`: never wrapped, for commands and prompts that are copied from the terminal.
    """

    text: str
    indent: int = 0
    is_verbatim: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text, margin = Text(escape_controls(self.text)), " " * self.indent
        lines = list(text.split("\n", allow_blank=True))
        if console.is_terminal and not self.is_verbatim:
            width = max(1, options.max_width - self.indent)
            lines = [part for line in lines for part in line.wrap(console, width)]
        for line in lines:
            yield Text(margin, no_wrap=True, overflow="ignore") + line


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: text of at most `max_width` cells, else figures, never cut."""

    title: str
    max_width: int | None = None


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table of rows that begin with a name.

    In a narrow window texts are cut first; then the columns that do not fit follow in further
    tables, each with the names in front. Which columns these are depends on the figures and the
    window, not on the texts.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width - _INDENT)
        for number, places in enumerate(self._parts(widths, options.max_width - _INDENT)):
            if number:
                yield Text()
            yield Padding(self._table(places, widths), (0, 0, 0, _INDENT))

    def _widths(self, width: int) -> list[int]:
        """Cells of each column. Text columns share in proportion to `max_width` what the figures
        leave: all of these where that is enough for a single table, else the widest."""
        figures = [0 if c.max_width else self._natural(i) for i, c in enumerate(self.columns)]
        limits = [column.max_width or 0 for column in self.columns]
        num_texts = sum(map(bool, limits))
        room = width - sum(figures) - _GAP * (len(limits) - 1)
        if room < _FAIR_TEXT * num_texts:
            room = width - max(figures) - _GAP * num_texts
        return [
            min(limit, max(_MIN_TEXT, room * limit // sum(limits))) if limit else figure
            for limit, figure in zip(limits, figures, strict=True)
        ]

    def _natural(self, place: int) -> int:
        texts = (self.columns[place].title, *(row[place] for row in self.rows))
        return max(cell_len(line) for text in texts for line in text.split("\n"))

    def _parts(self, widths: Sequence[int], width: int) -> Iterator[list[int]]:
        """The places of the columns of each table."""
        places, used = [0], widths[0]
        for place, needed in enumerate(widths[1:], start=1):
            if used + _GAP + needed > width and len(places) > 1:
                yield places
                places, used = [0], widths[0]
            places.append(place)
            used += _GAP + needed
        yield places

    def _table(self, places: Sequence[int], widths: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="")
        for place in places:
            is_text = self.columns[place].max_width is not None
            table.add_column(
                Text(self.columns[place].title),
                justify="left" if is_text else "right",
                vertical="bottom",
                max_width=widths[place],
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in self.rows:
            table.add_row(*(Text(escape_controls(row[place])) for place in places))
        return table


def pairs_table(pairs: Sequence[tuple[str, str]]) -> RenderableType:
    """Names and what they are, the latter wrapped within their column."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(escape_controls(value)))
    return table


def to_text(blocks: Sequence[RenderableType], width: int = PIPE_WIDTH) -> str:
    """The blocks as a pipe or a mail gets them: no colours, no blanks at the end of a line."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    console.print(Group(*blocks), crop=False)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))
