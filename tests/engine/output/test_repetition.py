"""Loops: found as soon as enough copies stand in a row, and nothing else is taken for one."""

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.engine.output.repetition import (
    CHECK_EVERY,
    MAX_PERIOD,
    is_due,
    repeats_itself,
    tokens_needed,
)

LYRICS = """\
When evening comes to Larch Road and the shops have closed their doors,
A lamp above the timber yard throws gold across the floors.
{refrain}
The carpenter has gone to bed, the saw is hanging still,
A cat is on the window ledge, a fox is on the hill.
{refrain}
And when the morning finds the road the light is pale and thin,
The carpenter unlocks the yard and lets the timber in.
{refrain}
""".format(
    refrain="Shine on, shine on, little lamp of mine,\nShine on till the day comes in.\n" * 2
)
TABLE = "| name | width | depth | height |\n|---|---|---|---|\n" + "".join(
    f"| Desk {number} | 120 cm | 60 cm | 74 cm |\n" for number in range(1, 60)
)
CODE = "".join(
    f'    def test_{name}(self):\n        self.assertEqual(load("{name}.json"), self.{name})\n\n'
    for name in ("alba", "birch", "cedar", "date", "elm", "fir", "gum", "hazel")
)
LIST = "".join(f"- {name}: in stock, ships in 2 days\n" for name in "abcdefghijklmnopqrst")


def slow_repeats_itself(ids: list[int], *, is_full: bool = False) -> bool:
    """Compare every period, token by token."""
    for period in range(1, MAX_PERIOD + 1):
        num = tokens_needed(period, is_full=is_full)
        if num <= len(ids):
            tail = ids[-num:]
            if all(tail[i] == tail[i + period] for i in range(num - period)):
                return True
    return False


@pytest.mark.parametrize("period", [1, 2, 3, 7, 8, 9, 16, 63, 64, 65, 80, 200, 511, 512])
@pytest.mark.parametrize("is_full", [False, True])
def test_a_loop_is_found_once_it_is_long_enough(period: int, is_full: bool) -> None:
    cycle = array("i", range(100, 100 + period))
    needed = tokens_needed(period, is_full=is_full)
    looping = array("i", range(50)) + cycle * (needed // period + 2)
    assert repeats_itself(looping[: 50 + needed], is_full=is_full)
    assert not repeats_itself(looping[: 50 + needed - 1], is_full=is_full)


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 30))
@settings(max_examples=6, deadline=None)
def test_the_search_finds_what_comparing_every_period_finds(
    seed: int, is_full: bool, num_parts: int
) -> None:
    """Few different tokens, and copies of what was said before: near loops of every kind."""
    rng = random.Random(seed)
    ids: list[int] = []
    while len(ids) < 40 * num_parts:
        begin = rng.randrange(len(ids) + 1)
        copied = ids[begin : begin + rng.randrange(1, 200)] * rng.randrange(1, 5)
        ids += copied if rng.random() < 0.7 else [rng.randrange(3) for _ in range(9)]
    for end in range(len(ids), max(0, len(ids) - 12), -1):
        part = ids[:end]
        assert repeats_itself(array("i", part), is_full=is_full) == slow_repeats_itself(
            part, is_full=is_full
        )


def test_text_that_only_nearly_repeats_goes_on() -> None:
    almost = array("i", list(range(16)) * 8)
    almost[-30] += 1
    assert not repeats_itself(almost)
    assert not repeats_itself(array("i", range(3000)))
    assert not repeats_itself(array("i", list(range(MAX_PERIOD + 1)) * 4)), "too long a period"


def test_bytes_of_two_tokens_are_no_token() -> None:
    """The bytes of a token stand at odd places too: 0x01010101 in a row of itself."""
    ids = array("i", [0x01010101] * 9 + [0x01010102] + [0x01010101] * 40)
    assert not repeats_itself(ids + array("i", range(30)) + array("i", [0x01010101] * 9))


@pytest.mark.parametrize("text", [LYRICS, TABLE, CODE, LIST], ids=["song", "table", "code", "list"])
def test_songs_tables_lists_and_code_are_no_loops(text: str) -> None:
    """As letters and as words; cut anywhere."""
    words = {word: number for number, word in enumerate(dict.fromkeys(text.split(" ")))}
    for ids in (
        array("i", list(text.encode())),
        array("i", map(words.__getitem__, text.split(" "))),
    ):
        for end in range(1, len(ids) + 1):
            assert not repeats_itself(ids[:end])


def test_every_loop_is_looked_at_in_time() -> None:
    assert all(any(map(is_due, range(n, n + CHECK_EVERY))) for n in range(64, 300))
