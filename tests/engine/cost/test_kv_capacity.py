"""Savings by windowed layers equal the figures that were computed for known models."""

import pytest

from thothy_batch.engine.cost.kv_capacity import capacity_table
from thothy_batch.records import LayerGroup

# 1k stands for 1,024 tokens in the table that these come from, 3k, 8k and 32k for thousands.
CONTEXTS = (1024, 3000, 8000, 32_000)
KNOWN = [
    ("Gemma-3-27B", 10, 52, 1024, (1.00, 2.23, 3.72, 5.32)),
    ("Gemma-3-12B", 8, 40, 1024, (1.00, 2.2, 3.7, 5.2)),
    ("Gemma-3-4B", 5, 29, 1024, (1.00, 2.3, 3.9, 5.7)),
    ("Gemma-3-1B", 4, 22, 512, (1.73, 3.35, 4.81, 5.97)),
    ("Gemma-2-9B", 21, 21, 4096, (1.00, 1.00, 1.32, 1.77)),
    ("gpt-oss-20b", 12, 12, 128, (1.78, 1.92, 1.97, 1.99)),
]


def groups_of(num_full: int, num_windowed: int, window: int) -> list[LayerGroup]:
    layers = tuple(range(num_full + num_windowed))
    return [LayerGroup(layers[:num_full]), LayerGroup(layers[num_full:], window)]


@pytest.mark.parametrize(
    ("full", "windowed", "window", "gains"), [k[1:] for k in KNOWN], ids=[k[0] for k in KNOWN]
)
def test_gains_are_those_known(
    full: int, windowed: int, window: int, gains: tuple[float, ...]
) -> None:
    table = capacity_table(groups_of(full, windowed, window), CONTEXTS)
    digits = 2 if full in (4, 10, 12, 21) else 1  # as given
    assert tuple(round(row.gain, digits) for row in table) == gains
    assert [row.context for row in table] == list(CONTEXTS)


def test_a_thousand_tokens_gain_a_little_less_than_1024() -> None:
    """The two figures that come out otherwise where 1k is 1,000 tokens: 1.73 and 1.78 at 1,024."""
    (gemma,) = capacity_table(groups_of(4, 22, 512), [1000])
    (gpt_oss,) = capacity_table(groups_of(12, 12, 128), [1000])
    assert (round(gemma.gain, 2), round(gpt_oss.gain, 2)) == (1.70, 1.77)


def test_a_uniform_model_gains_nothing() -> None:
    (row,) = capacity_table([LayerGroup((0, 1, 2))], [8000])
    assert (row.uniform, row.hybrid, row.gain) == (24_000, 24_000, 1.0)
