"""Tables and lines fit the window, whatever characters the names are made of."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from thothy_batch.report.layout import Column, FigureTable, Line, pairs_table, to_text

NAMES = ("商品説明の要約ジョブ夜間", "emoji 🔬🚀 👩‍🔬 titles", "plain", "한국어 번역", "long " * 20)
COLUMNS = (
    *(Column("job", 32), Column("kind", 16), Column("done"), Column("not\nrun")),
    *(Column("artifacts/h"), Column("tokens/s"), Column("queue\np50"), Column("predicted")),
    *(Column("tokens\np50"), Column("tokens\np95"), Column("flagged")),
)


def table() -> FigureTable:
    figures = [f"{10**place:,}" for place in range(1, 10)]
    return FigureTable(COLUMNS, [[name, "要約 summary", *figures] for name in NAMES])


@pytest.mark.parametrize("width", [60, 61, 80, 100, 137, 200])
def test_every_line_of_a_table_fits_and_every_figure_is_whole(width: int) -> None:
    text = to_text([table()], width)
    assert max(map(cell_len, text.splitlines())) <= width
    for place in range(1, 10):
        assert text.split().count(f"{10**place:,}") == len(NAMES)
    for word in ("done", "artifacts/h", "tokens/s", "predicted", "flagged"):
        assert text.split().count(word) == 1


@pytest.mark.parametrize("width", [60, 100, 200])
def test_columns_stand_below_each_other_behind_wide_characters(width: int) -> None:
    for part in to_text([table()], width).split("\n\n"):
        rows = [line for line in part.splitlines() if line.strip()]
        head, body = rows[-len(NAMES) - 1], rows[-len(NAMES) :]
        assert {cell_len(row) for row in body} == {cell_len(head)}, part


def test_a_narrow_window_repeats_the_names_in_front_of_the_rest() -> None:
    assert to_text([table()], 200).count("plain") == 1
    assert to_text([table()], 60).count("plain") > 1


def test_which_columns_fit_does_not_depend_on_the_names() -> None:
    short = FigureTable(COLUMNS, [["x", "x", *row[2:]] for row in table().rows])
    for width in range(60, 201, 7):
        here, there = to_text([table()], width), to_text([short], width)
        assert len(here.splitlines()) == len(there.splitlines())


def on_terminal(*blocks: object, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(
        *blocks, crop=False
    )
    return file.getvalue()


def test_a_line_is_wrapped_at_words_on_a_terminal_and_whole_in_a_pipe() -> None:
    sentence = "one two three " * 20
    assert to_text([Line(sentence, indent=4)], 60) == f"    {sentence}".rstrip() + "\n"
    lines = on_terminal(Line(sentence, indent=4), width=60).splitlines()
    assert len(lines) > 4
    assert all(line.startswith("    ") and cell_len(line) <= 60 for line in lines)
    assert " ".join(" ".join(lines).split()) == sentence.strip()


def test_a_verbatim_line_is_whole_on_a_terminal_too() -> None:
    command = "cd /srv && thothy-batch run manifest.yaml " * 5
    lines = on_terminal(Line(command, indent=2, is_verbatim=True), width=60).splitlines()
    assert lines == [f"  {command}"]


def test_wide_text_wraps_within_the_terminal() -> None:
    lines = on_terminal(Line("商品" * 60, indent=2), width=60).splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert "".join(line.strip() for line in lines) == "商品" * 60


def test_pairs_wrap_within_their_column() -> None:
    text = to_text([pairs_table([("model", "商品 " * 60), ("device", "cpu")])], 60)
    first, *rest, last = text.splitlines()
    assert first.startswith("model   商品")
    assert all(line.startswith("        商品") and cell_len(line) <= 60 for line in rest)
    assert last == "device  cpu"


def test_nothing_of_a_text_is_markup_or_a_control() -> None:
    hostile = "[bold]x[/bold] :smile: \x1b[2J\x9b31m\u202e"
    shown = r"[bold]x[/bold] :smile: \x1b[2J\x9b31m\u202e"
    blocks = [Line(hostile), pairs_table([("a", hostile)])]
    blocks.append(FigureTable([Column("job", 60), Column("n")], [[hostile, "1"]]))
    for text in (to_text(blocks), on_terminal(*blocks, width=100)):
        assert text.count(shown) == 3
        assert not set(text) & {"\x9b", "\u202e", "\x07"}
        assert "\x1b[2J" not in text
