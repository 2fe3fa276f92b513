"""The step state refuses what does not fit, by name."""

from dataclasses import fields

import pytest
import torch
from step_oracle import NUM_SLOTS, V, inputs_of, simulation_of

from thothy_kernels.step_state import (
    DecodeInputs,
    StateTable,
    advance_inputs,
    clear_seen,
    mark_seen,
    record_tokens,
)


def _changed(**values):
    """Inputs of 3 rows with another value of some field."""
    good = inputs_of(simulation_of(3, 1, seed=0))
    return DecodeInputs(
        **({field.name: getattr(good, field.name) for field in fields(good)} | values)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_ids", torch.zeros((), dtype=torch.int64)),
        ("positions", torch.zeros(2, dtype=torch.int64)),
        ("context_lens", torch.zeros(3, dtype=torch.int64)),
        ("sample_positions", torch.zeros(6, dtype=torch.int64)[::2]),
        ("slots", torch.zeros(3)),
        ("limits", torch.zeros(3)),
        ("block_tables", ()),
        ("block_tables", (torch.zeros(3, 2),)),
        ("block_tables", (torch.zeros(2, 2, dtype=torch.int32),)),
        ("block_tables", (torch.zeros(3, 0, dtype=torch.int32),)),
        ("block_tables", (torch.zeros(2, 3, dtype=torch.int32).t(),)),
        ("slot_mappings", ()),
        ("slot_mappings", (torch.zeros(3, dtype=torch.int32),)),
    ],
)
def test_bad_inputs_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^DecodeInputs: .*{name}"):
        _changed(**{name: value})


def test_bad_tables_are_refused_by_name():
    tokens, seen = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int32)
    for message, args in (
        ("last_tokens is", (tokens.int(), seen)),
        ("seen is", (tokens, seen[:2])),
        ("seen is", (tokens, seen.long())),
        ("seen is", (tokens, torch.zeros(3, 0, dtype=torch.int32))),
        ("seen is", (tokens, torch.zeros(2, 3, dtype=torch.int32).t())),
    ):
        with pytest.raises(ValueError, match=message):
            StateTable(*args)
    for num_slots, vocab_size in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="num_slots and .* vocab_size"):
            StateTable.allocate(num_slots, vocab_size, "cpu")


def test_bad_arguments_are_refused_by_name():
    table, three = StateTable.allocate(NUM_SLOTS, V, "cpu"), torch.zeros(3, dtype=torch.int64)
    for message, call in (
        (
            "record_tokens: slots is",
            lambda: record_tokens(table, three.int(), three, impl="triton"),
        ),
        ("record_tokens: drawn is", lambda: record_tokens(table, three, three[:2], impl="triton")),
        ("mark_seen: token_ids is", lambda: mark_seen(table, three, three[None], impl="triton")),
        ("clear_seen: slots is", lambda: clear_seen(table, three.int())),
        ("there are reference, triton", lambda: mark_seen(table, three, three, impl="cpu")),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_arguments_of_a_step_are_refused_by_name():
    drawn, ring, counter = (torch.zeros(shape, dtype=torch.int64) for shape in (3, (2, 3), 1))
    for message, args, block_size in (
        ("drawn is", (drawn[:2], ring, counter), 4),
        ("ring is", (drawn, ring[:, :2], counter), 4),
        ("ring is", (drawn, ring[:0], counter), 4),
        ("ring is", (drawn, ring.int(), counter), 4),
        ("rows of ring", (drawn, torch.zeros(3, 2, dtype=torch.int64).t(), counter), 4),
        ("counter is", (drawn, ring, counter.int()), 4),
        ("counter is", (drawn, ring, counter[0]), 4),
        ("block_size is 0", (drawn, ring, counter), 0),
    ):
        with pytest.raises(ValueError, match=f"advance_inputs: {message}"):
            advance_inputs(
                _changed(),
                StateTable.allocate(NUM_SLOTS, V, "cpu"),
                *args,
                block_size=block_size,
                impl="triton",
            )
