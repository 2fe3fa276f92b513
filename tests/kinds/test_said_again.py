"""Passages said again: found in what models loop in, not in songs, tables, lists and code."""

from collections import Counter

import pytest

from thothy_batch.kinds.said_again import count_passages, said_again, weight

LARCH = "The Larch desk lamp gives 300 lumens of warm light for ten hours."
ALBA = "Alba, the smaller of the two, weighs 250 grams and fits every shelf."
KANJI = "落葉松の卓上ランプは暖かい光を十時間にわたって灯し続けます。"


@pytest.mark.parametrize(
    "text",
    [
        f"{LARCH}\n\n{ALBA}\n\n{LARCH}",
        f"{LARCH} {ALBA} {LARCH}",
        f"1. {LARCH}\n2. {ALBA}\n3. {LARCH}",
        f"## Overview\n{LARCH}\n## Findings\n- {LARCH.upper()}",
        f"{KANJI}{KANJI}",
        "\n".join(f"{number}. It freezes at zero." for number in range(1, 9)),
        "Recommendation:\nBuy the lamp.\n" * 6,
        f"{LARCH}\u2028{LARCH}",
    ],
)
def test_a_text_that_says_a_passage_again_is_found(text: str) -> None:
    assert said_again(text, Counter())


REFRAIN = "Shine on, shine on, little lamp of mine,\nShine on till the day comes in.\n"
SONG = "".join(
    f"Verse {number} tells of {name} and of the long way home,\n"
    f"Of {name}'s lamp in the window and the shadow on the stone,\n{REFRAIN}"
    for number, name in enumerate(("Alba", "Birch", "Cedar", "Elm"))
)
TABLE = "| in stock | ships within two working days from our store in Riga |\n" * 9
CODE = (
    "```\n" + "    self.assertEqual(load(path).lumens, 300, 'the lamp is not bright')\n" * 9 + "```"
)
LIST = "".join(f"- {name}: in stock\n- 2 days\n" for name in "abcdefghijklm")
RULES = f"{'-' * 80}\n{LARCH}\n{'-' * 80}\n{ALBA}\n{'=' * 80}\n" + "- - - - - - - - - - - -\n" * 9


@pytest.mark.parametrize(
    "text", [SONG, TABLE, CODE, LIST, RULES, f"{LARCH} {ALBA}", "", "no, no, no"]
)
def test_songs_tables_code_and_lists_say_nothing_again(text: str) -> None:
    assert said_again(text, Counter()) == ""


def test_a_text_may_say_a_passage_as_often_as_its_source() -> None:
    source = f"{LARCH}\n{ALBA}\n{LARCH}"
    allowed = count_passages(source)
    assert said_again(source, allowed) == ""
    assert said_again(f"{source}\n{LARCH}", allowed) == LARCH.lower()
    assert said_again(f"{source}\n{ALBA}", allowed) == ALBA.lower()
    in_other_words = Counter({"": 2})
    assert said_again(f"{KANJI}\n{KANJI}", in_other_words) == ""
    assert said_again(f"{KANJI}\n{KANJI}\n{KANJI}", in_other_words)


def test_ideographs_weigh_as_much_as_the_words_that_they_are() -> None:
    assert weight("ランプ") == 9
    assert weight("lamp") == weight("łamp") == 4
