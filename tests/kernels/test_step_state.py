"""The step state: what sequences remember, and inputs of a step from those of the step before.

Both implementations are held to the same simulation in plain Python, of lists and sets.
"""

from dataclasses import fields

import numpy as np
import pytest
import torch
from step_oracle import NUM_SLOTS, V, inputs_of, seen_of, simulation_of

from thothy_kernels.step_state import (
    DecodeInputs,
    StateTable,
    advance_inputs,
    clear_seen,
    mark_seen,
    record_tokens,
    triton_impl,
)

IMPLS = ("reference", "triton")
DEVICES = dict.fromkeys(IMPLS, "cpu")
if torch.cuda.is_available():
    DEVICES["triton"] = "cuda"


def _vector(values, impl):
    return torch.tensor(values, device=DEVICES[impl], dtype=torch.int64)


def _inputs(simulation, impl):
    return inputs_of(simulation, DEVICES[impl])


def _table(impl="reference", num_slots=NUM_SLOTS, vocab_size=V):
    return StateTable.allocate(num_slots, vocab_size, DEVICES[impl])


@pytest.mark.parametrize(("vocab_size", "num_words"), [(1, 1), (32, 1), (33, 2), (151_936, 4748)])
def test_a_new_table_has_a_bit_for_every_token_and_a_slot_for_padding(vocab_size, num_words):
    table = _table(num_slots=3, vocab_size=vocab_size)
    assert table.num_slots == 3
    assert table.last_tokens.tolist() == [0] * 4
    assert torch.equal(table.seen, torch.zeros(4, num_words, dtype=torch.int32))


@pytest.mark.few(2)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("R", [1, 3, 17])
def test_recorded_tokens_are_the_last_and_are_seen(R, impl):
    rng = np.random.default_rng(R)
    table = _table(impl)
    last, seen = [0] * (NUM_SLOTS + 1), [set() for _ in range(NUM_SLOTS + 1)]
    for _ in range(8):
        slots = rng.permutation(NUM_SLOTS)[:R].tolist()
        drawn = rng.integers(-1, V, R).tolist()
        for slot, token in zip(slots, drawn, strict=True):
            last[slot] = max(token, 0)
            seen[slot] |= {token} - {-1}
        record_tokens(table, _vector(slots, impl), _vector(drawn, impl), impl=impl)
    assert table.last_tokens.tolist() == last
    assert seen_of(table) == seen


@pytest.mark.parametrize("impl", IMPLS)
def test_every_token_has_its_own_bit_the_sign_of_a_word_too(impl):
    table = _table(impl, num_slots=V)
    slots = torch.arange(V, device=DEVICES[impl])
    record_tokens(table, slots, slots.flip(0), impl=impl)
    assert seen_of(table) == [{V - 1 - slot} for slot in range(V)] + [set()]
    assert table.seen[V - 1 - 31].tolist() == [-(2**31), 0, 0]
    assert table.seen[V - 1 - 42].tolist() == [0, 1 << 10, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_refused_row_has_last_token_zero_and_keeps_what_it_saw(impl):
    table = _table(impl)
    for token in (7, -1):
        record_tokens(table, _vector([4], impl), _vector([token], impl), impl=impl)
    assert table.last_tokens[4] == 0
    assert seen_of(table)[4] == {7}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("T", [0, 1, 3, 400])
def test_prompts_are_marked_however_often_a_token_comes(T, impl):
    rng = np.random.default_rng(T)
    table = _table(impl)
    seen = [set() for _ in range(NUM_SLOTS + 1)]
    for _ in range(2):
        slots, token_ids = rng.integers(0, 5, T).tolist(), rng.integers(0, V, T).tolist()
        for slot, token in zip(slots, token_ids, strict=True):
            seen[slot].add(token)
        mark_seen(table, _vector(slots, impl), _vector(token_ids, impl), impl=impl)
    assert seen_of(table) == seen
    assert not table.last_tokens.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("record", [record_tokens, mark_seen])
def test_padding_and_what_lies_outside_the_table_change_nothing(record, impl):
    table = _table(impl)
    slots = [NUM_SLOTS, NUM_SLOTS, -1, NUM_SLOTS + 1, 2**40, 3, 5]
    tokens = [5, 6, 7, 8, 9, 96, 2**40]
    record(table, _vector(slots, impl), _vector(tokens, impl), impl=impl)
    assert not table.seen.any()
    assert not table.last_tokens[[0, NUM_SLOTS - 1, NUM_SLOTS]].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_cleared_slot_has_seen_nothing_and_its_neighbours_all(impl):
    table = _table(impl)
    slots = torch.arange(6, device=DEVICES[impl])
    record_tokens(table, slots, slots + 30, impl=impl)
    clear_seen(table, _vector([1, 4], impl))
    seen = seen_of(table)
    assert [seen[slot] for slot in range(6)] == [{30}, set(), {32}, {33}, set(), {35}]
    clear_seen(table, _vector([], impl))


def _assert_same(simulation, inputs, table, ring, counter):
    for field in fields(DecodeInputs):
        found, expected = getattr(inputs, field.name), simulation.inputs[field.name]
        is_grouped = isinstance(found, tuple)
        found = [part.tolist() for part in found] if is_grouped else found.tolist()
        assert found == expected, field.name
    assert table.last_tokens.tolist() == simulation.last
    assert seen_of(table) == simulation.seen
    assert ring.tolist() == simulation.ring
    assert counter.tolist() == [simulation.counter]


@pytest.mark.few(2)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("S", "num_groups"), [(1, 1), (3, 2), (17, 1), (20, 5)])
def test_many_steps_are_those_of_thesimulation_of(S, num_groups, impl):
    simulation = simulation_of(S, num_groups, seed=S)
    inputs, table = _inputs(simulation, impl), _table(impl)
    ring, counter = _vector(simulation.ring, impl), _vector([0], impl)
    rng = np.random.default_rng(S)
    for _ in range(16):
        drawn = rng.integers(-1, V, S).tolist()
        simulation.advance(drawn)
        args = (inputs, table, _vector(drawn, impl), ring, counter)
        advance_inputs(*args, block_size=4, impl=impl)
        _assert_same(simulation, inputs, table, ring, counter)


def test_after_the_last_block_and_without_one_nothing_is_stored():
    for impl in IMPLS:
        simulation = simulation_of(1, 1, seed=0)
        context = {"context_lens": [6], "positions": [5], "sample_positions": [6], "slots": [2]}
        context["limits"] = [99]
        simulation.inputs |= context | {"block_tables": [[[9, 4, -1, 6]]]}
        inputs, table = _inputs(simulation, impl), _table(impl)
        ring, counter, found = _vector([[0]], impl), _vector([0], impl), []
        for token in range(13):
            args = (inputs, table, _vector([token], impl), ring, counter)
            advance_inputs(*args, block_size=4, impl=impl)
            found.append(inputs.slot_mappings[0].item())
        assert found == [18, 19, -1, -1, -1, -1, 24, 25, 26, 27, -1, -1, -1], impl
        assert seen_of(table)[2] == set(range(13))


def test_rows_in_several_turns_of_the_program_are_the_references(monkeypatch):
    """256 rows a turn are the fewest that are safe with its 256 threads."""
    monkeypatch.setattr(triton_impl, "_ADVANCED", 256)
    simulation, found = simulation_of(600, 2, seed=3), {}
    for impl in IMPLS:
        inputs, table = _inputs(simulation, impl), _table(impl, num_slots=600)
        inputs.slots.copy_(torch.arange(600))
        ring, counter = _vector(simulation.ring, impl), _vector([2**40], impl)
        for _ in range(3):
            args = (inputs, table, torch.arange(600, device=ring.device) % V, ring, counter)
            advance_inputs(*args, block_size=5, impl=impl)
        values = [getattr(inputs, field.name) for field in fields(DecodeInputs)]
        state = (*values[:5], *values[5], *values[6], table.last_tokens, table.seen, ring, counter)
        found[impl] = [value.cpu() for value in state]
    for expected, value in zip(found["reference"], found["triton"], strict=True):
        assert torch.equal(value, expected)


def test_the_reference_needs_no_values_on_the_host():
    """Tensors of the meta device have none: reading one raises."""
    inputs, table = _inputs(simulation_of(3, 2, seed=0), "reference"), _table()
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    for name, value in values.items():
        is_grouped = isinstance(value, tuple)
        values[name] = tuple(t.to("meta") for t in value) if is_grouped else value.to("meta")
    drawn, ring, counter = (torch.zeros(n, dtype=torch.int64) for n in (3, (2, 3), 1))
    args = (t.to("meta") for t in (drawn, ring, counter))
    state = StateTable(table.last_tokens.to("meta"), table.seen.to("meta"))
    advance_inputs(DecodeInputs(**values), state, *args, block_size=4, impl="reference")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("impl", IMPLS)
def test_a_cuda_graph_holds_a_step(impl, monkeypatch):
    monkeypatch.setitem(DEVICES, "reference", "cuda")
    simulation = simulation_of(17, 2, seed=1)
    warm, inputs, table = _inputs(simulation, impl), _inputs(simulation, impl), _table(impl)
    ring, counter = _vector(simulation.ring, impl), _vector([0], impl)
    drawn, graph = _vector([0] * 17, impl), torch.cuda.CUDAGraph()
    others = (_table(impl), drawn, ring.clone(), counter.clone())
    advance_inputs(warm, *others, block_size=4, impl=impl)  # compiles
    with torch.cuda.graph(graph):
        advance_inputs(inputs, table, drawn, ring, counter, block_size=4, impl=impl)
    for step in range(5):
        tokens = [(step * 13 + row) % (V + 1) - 1 for row in range(17)]
        simulation.advance(tokens)
        drawn.copy_(torch.tensor(tokens))
        graph.replay()
    _assert_same(simulation, inputs, table, ring, counter)
