"""The step state: what sequences remember, and inputs of a step from those of the step before.

Both implementations are held to the same simulation in plain Python, of lists and sets.
"""

from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch

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
V, NUM_SLOTS = 75, 20


def _seen(table):
    """For each slot the set of its tokens, by numpy's own way with bits."""
    bits = np.unpackbits(table.seen.cpu().numpy().view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def _vector(values, impl="reference", dtype=torch.int64):
    return torch.tensor(values, dtype=dtype, device=DEVICES[impl])


def _table(impl="reference", num_slots=NUM_SLOTS, vocab_size=V):
    return StateTable.allocate(num_slots, vocab_size, DEVICES[impl])


@pytest.mark.parametrize(("vocab_size", "num_words"), [(1, 1), (32, 1), (33, 2), (151_936, 4748)])
def test_a_new_table_has_a_bit_for_every_token_and_a_slot_for_padding(vocab_size, num_words):
    table = _table(num_slots=3, vocab_size=vocab_size)
    assert table.num_slots == 3
    assert table.last_tokens.tolist() == [0] * 4
    assert torch.equal(table.seen, torch.zeros(4, num_words, dtype=torch.int32))


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
    assert _seen(table) == seen


@pytest.mark.parametrize("impl", IMPLS)
def test_every_token_has_its_own_bit_the_sign_of_a_word_too(impl):
    table = _table(impl, num_slots=V)
    slots = torch.arange(V, device=DEVICES[impl])
    record_tokens(table, slots, slots.flip(0), impl=impl)
    assert _seen(table) == [{V - 1 - slot} for slot in range(V)] + [set()]
    assert table.seen[V - 1 - 31].tolist() == [-(2**31), 0, 0]
    assert table.seen[V - 1 - 42].tolist() == [0, 1 << 10, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_refused_row_has_last_token_zero_and_keeps_what_it_saw(impl):
    table = _table(impl)
    for token in (7, -1):
        record_tokens(table, _vector([4], impl), _vector([token], impl), impl=impl)
    assert table.last_tokens[4] == 0
    assert _seen(table)[4] == {7}


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
    assert _seen(table) == seen
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
    seen = _seen(table)
    assert [seen[slot] for slot in range(6)] == [{30}, set(), {32}, {33}, set(), {35}]
    clear_seen(table, _vector([], impl))


@dataclass
class Simulation:
    """A decode step's inputs and the state of its sequences, in plain Python."""

    inputs: dict[str, list]
    ring: list[list[int]]
    block_size: int
    counter: int = 0

    def __post_init__(self):
        self.last, self.seen = [0] * (NUM_SLOTS + 1), [set() for _ in range(NUM_SLOTS + 1)]

    def advance(self, drawn):
        for row, token in enumerate(drawn):
            self.ring[self.counter % len(self.ring)][row] = token
            if self.inputs["context_lens"][row] > 0:
                self._advance_row(row, token)
            for group, block_table in enumerate(self.inputs["block_tables"]):
                slot = self._slot(row, block_table[row])
                self.inputs["slot_mappings"][group][row] = slot
        self.counter += 1

    def _advance_row(self, row, token):
        slot = self.inputs["slots"][row]
        if slot < NUM_SLOTS:
            self.last[slot] = max(token, 0)
            self.seen[slot] |= {token} - {-1}
        self.inputs["token_ids"][row] = max(token, 0)
        for name in ("positions", "context_lens", "sample_positions"):
            self.inputs[name][row] += 1
        if self.inputs["positions"][row] > self.inputs["limits"][row]:
            self.inputs["context_lens"][row] = 0

    def _slot(self, row, block_ids):
        column, offset = divmod(self.inputs["positions"][row], self.block_size)
        is_stored = self.inputs["context_lens"][row] > 0 and column < len(block_ids)
        if not is_stored or block_ids[column] == -1:
            return -1
        return block_ids[column] * self.block_size + offset


def _simulation(S, num_groups, seed, block_size=4):
    """Rows in the middle of their sequences, some of them padding; blocks end, or lack."""
    rng = np.random.default_rng(seed)
    context_lens = rng.integers(1, 14, S)
    context_lens[rng.random(S) < 0.25] = 0
    if S > 1:
        context_lens[-1] = 0
    slots = np.where(context_lens > 0, np.resize(rng.permutation(NUM_SLOTS), S), NUM_SLOTS)
    # As many columns as 12 to 24 tokens need, and some entries that are no block.
    shapes = [(S, 3 + group % 4) for group in range(num_groups)]
    block_tables = [rng.integers(-1, 2**28, shape) for shape in shapes]
    for block_table in block_tables:
        block_table[rng.random(block_table.shape) < 0.1] = -1
    inputs = {
        "token_ids": rng.integers(0, V, S),
        "positions": np.maximum(context_lens - 1, 0),
        "context_lens": context_lens,
        "sample_positions": context_lens,
        "slots": slots,
        "limits": np.maximum(context_lens - 1, 0) + rng.integers(0, 25, S),
    }
    inputs = {name: value.tolist() for name, value in inputs.items()}
    inputs["block_tables"] = [block_table.tolist() for block_table in block_tables]
    inputs["slot_mappings"] = [[-1] * S for _ in range(num_groups)]
    return Simulation(inputs, [[-7] * (S + 2) for _ in range(3)], block_size)


def _inputs(simulation, impl):
    """Its tensors; the rows of block tables lie apart, with what is no block between."""
    narrow = {"context_lens": torch.int32}
    values = {
        name: _vector(value, impl, narrow.get(name, torch.int64))
        for name, value in simulation.inputs.items()
        if name not in ("block_tables", "slot_mappings")
    }
    tables = []
    for block_table in simulation.inputs["block_tables"]:
        block_table = _vector(block_table, impl, torch.int32)
        wide = torch.full((block_table.shape[0], 9), 1 << 30, dtype=torch.int32)
        wide = wide.to(block_table.device)
        tables.append(wide[:, : block_table.shape[1]])
        tables[-1].copy_(block_table)
    mappings = [_vector(value, impl) for value in simulation.inputs["slot_mappings"]]
    return DecodeInputs(**values, block_tables=tuple(tables), slot_mappings=tuple(mappings))


def _assert_same(simulation, inputs, table, ring, counter):
    for field in fields(DecodeInputs):
        found, expected = getattr(inputs, field.name), simulation.inputs[field.name]
        is_grouped = isinstance(found, tuple)
        found = [part.tolist() for part in found] if is_grouped else found.tolist()
        assert found == expected, field.name
    assert table.last_tokens.tolist() == simulation.last
    assert _seen(table) == simulation.seen
    assert ring.tolist() == simulation.ring
    assert counter.tolist() == [simulation.counter]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("S", "num_groups"), [(1, 1), (3, 2), (17, 1), (20, 5)])
def test_many_steps_are_those_of_the_simulation(S, num_groups, impl):
    simulation = _simulation(S, num_groups, seed=S)
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
        simulation = _simulation(1, 1, seed=0)
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
        assert _seen(table)[2] == set(range(13))


def test_rows_in_several_turns_of_the_program_are_the_references(monkeypatch):
    """256 rows a turn are the fewest that are safe with its 256 threads."""
    monkeypatch.setattr(triton_impl, "_ADVANCED", 256)
    simulation, found = _simulation(600, 2, seed=3), {}
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
    inputs, table = _inputs(_simulation(3, 2, seed=0), "reference"), _table()
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
    simulation = _simulation(17, 2, seed=1)
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


def _changed(**values):
    """Inputs of 3 rows with another value of some field."""
    good = _inputs(_simulation(3, 1, seed=0), "reference")
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
            _table(num_slots=num_slots, vocab_size=vocab_size)


def test_bad_arguments_are_refused_by_name():
    table, three = _table(), torch.zeros(3, dtype=torch.int64)
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
            advance_inputs(_changed(), _table(), *args, block_size=block_size, impl="triton")
