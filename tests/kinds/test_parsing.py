"""Parsing takes white space and marks off a text, and never a part of a word."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.kinds.parsing import num_lines, parse_line, parse_sections, visible

ZWJ, ZWNJ = "\u200d", "\u200c"


@pytest.mark.parametrize(
    "line",
    [
        "'Twas bright for your desks",
        "'Twas bright for your desks'",
        "'Twas bright.'",
        "‘Twas bright for your desks’",
        "'Tis the season",
        "'90s lamps for your dogs'",
        "'n Lamp vir die boere'",
        "'s Avonds licht voor je Bureaus'",
        "The neighbours' desks, the dogs'",
        "3D printers for 2 EUR",
        "1984 was a bright year",
        "- 5 degrees in Larch",
        "1. FC Larch wins",
        "A. Smith said so",
        "Label: a lamp",
        '"Quoted" start and "end"',
        "*Larch* and _Alba_",
        "#1 of all lamps",
        'A shelf of 12"',
        "«a» and «b»",
        "ന്\u200d",
        f"می{ZWNJ}",
        "heart ❤\ufe0f",
        f"family 👩{ZWJ}",
        "e\u0301",
        "\u0301e",
        "soft\u00ad",
        "\u200eltr\u200f",
        "one\u2028two",
        "one\x85two",
        "one\x1ctwo",
    ],
)
def test_a_line_stays_as_it_is(line: str) -> None:
    assert parse_line(line) == line
    assert parse_line(f" \n{line}\u00a0\r\n") == line
    assert visible(f"\ufeff{line}\u200b") == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("'Larch is bright'", "Larch is bright"),
        ("'Larch lights the desks.'", "Larch lights the desks."),
        ("‘Larch is bright’", "Larch is bright"),
        ('"\'Twas bright"', "'Twas bright"),
        ("“ a\u200d ”", "a\u200d"),
    ],
)
def test_quotes_around_the_whole_are_taken_off(text: str, line: str) -> None:
    assert parse_line(text) == line


@pytest.mark.parametrize("text", ["", "\u200b", ZWJ, f"\ufeff {ZWNJ}\ufe0f", "\u2028\x85", "\x00"])
def test_what_shows_nothing_is_empty(text: str) -> None:
    assert visible(text) == ""


@given(st.text())
def test_only_white_space_and_invisible_characters_are_stripped(text: str) -> None:
    kept = visible(text)
    assert kept in text
    dropped = text if not kept else text.replace(kept, "", 1)
    for character in dropped:
        assert unicodedata.category(character)[0] in "CZ" or character in "\ufe0e\ufe0f"
        assert character not in (ZWJ, ZWNJ) or not kept or kept not in text.strip()


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_lines_of_a_report_are_those_of_markdown(mark: str, odd: str) -> None:
    """Any other break is part of the text and stays what it is."""
    body = f"a{odd}b{odd}## c{mark}{mark}- d{odd}{mark}e"
    text = f"before{mark}## One{mark}{body}{mark}{mark}## Two{mark}f"
    assert parse_sections(text) == [
        {"heading": "One", "body": body},
        {"heading": "Two", "body": "f"},
    ]


@pytest.mark.parametrize(
    ("line", "heading"),
    [
        ("## C#", "C#"),
        ("## C# ##", "C#"),
        ("## F# and C#", "F# and C#"),
        ("## Rated 4*", "Rated 4*"),
        ("## *args", "*args"),
        ("## **Overview**:", "Overview"),
        ("## **Overview:**", "Overview"),
        ("## *Overview*", "Overview"),
        ("## Overview :", "Overview"),
        ("## 3D", "3D"),
        ("## :", ":"),
        ("## **", "**"),
    ],
)
def test_a_heading_keeps_its_words(line: str, heading: str) -> None:
    assert [section["heading"] for section in parse_sections(line)] == [heading]


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("a", 1),
        ("a\nb", 2),
        ("a\r\nb", 2),
        ("a\rb", 2),
        ("a\u2028b", 2),
        ("a\x85b", 2),
        ("a\x1cb", 1),
    ],
)
def test_lines_are_counted_by_unicode_breaks(text: str, num: int) -> None:
    assert num_lines(text) == num
