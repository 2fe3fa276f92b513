"""penalize_seen equals penalize_repetition of the seen tokens, bit for bit."""

import numpy as np
import pytest
import torch

from thothy_kernels.sample import penalize_repetition, penalize_seen
from thothy_kernels.sample.triton_impl import launch
from thothy_kernels.step_state import StateTable, mark_seen

IMPLS = ("reference", "cpu", "triton")
DEVICES = dict.fromkeys(IMPLS, "cpu")
if torch.cuda.is_available():
    DEVICES["triton"] = "cuda"
PENALTIES = np.array([1.0, 1.1, 1.3, 0.7, 2.0, 1.05], np.float32)


def _case(R, V, seed=0):
    """(logits, tokens of each slot, slots, penalty): 9 slots, two rows of one slot, padding."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((R, V)) * 10).astype(np.float32)
    logits[0, : V // 3] = -np.inf
    logits[:, V // 2] = -0.0
    seen = [set(rng.integers(0, V, rng.integers(0, V)).tolist()) for _ in range(9)]
    seen[4] = set(range(V))
    slots = rng.integers(0, 10, R)
    slots[0] = 4
    return logits, seen, slots, PENALTIES[(np.arange(R) + 1) % len(PENALTIES)]


def _table(seen, V):
    table = StateTable.allocate(len(seen), V, "cpu")
    pairs = [(slot, token) for slot, tokens in enumerate(seen) for token in tokens]
    mark_seen(table, *torch.tensor(pairs).reshape(-1, 2).t().contiguous(), impl="reference")
    return table.seen


def _expected(logits, seen, slots, penalty):
    out = logits.copy()
    for row, slot in enumerate(slots):
        for token in seen[slot] if slot < len(seen) else ():
            value = out[row, token]
            out[row, token] = value * penalty[row] if value < 0 else value / penalty[row]
    return out


def _penalized(logits, *args, impl):
    logits = torch.as_tensor(logits).clone().to(DEVICES[impl])
    moved = (torch.as_tensor(value).to(DEVICES[impl]) for value in args)
    penalize_seen(logits, *moved, impl=impl)
    return logits.cpu()


def _assert_same_bits(found, expected):
    assert torch.equal(found.view(torch.int32), torch.as_tensor(expected).view(torch.int32))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("R", "V"), [(1, 1), (3, 32), (17, 75), (5, 300)])
def test_logits_of_seen_tokens_alone_are_penalised(R, V, impl, monkeypatch):
    monkeypatch.setattr(launch, "_WORDS", 4)  # a row of 300 has three pieces
    logits, seen, slots, penalty = _case(R, V, seed=V)
    found = _penalized(logits, _table(seen, V), slots, penalty, impl=impl)
    _assert_same_bits(found, _expected(logits, seen, slots, penalty))


@pytest.mark.parametrize("impl", IMPLS)
def test_it_is_the_repetition_penalty_of_the_same_tokens(impl):
    logits, seen, slots, penalty = _case(4, 2500)
    pairs = [(row, token) for row, slot in enumerate(slots) if slot < 9 for token in seen[slot]]
    rows, tokens = torch.tensor(pairs).t()
    expected = torch.tensor(logits)
    penalize_repetition(expected, rows, tokens, torch.tensor(penalty)[rows], impl="cpu")
    found = _penalized(logits, _table(seen, 2500), slots, penalty, impl=impl)
    _assert_same_bits(found, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_penalty_of_one_leaves_even_a_broken_row_as_it_is(impl):
    logits = torch.full((2, 40), torch.nan)
    table = torch.full((3, 2), -1, dtype=torch.int32)
    found = _penalized(logits, table, torch.tensor([0, 1]), torch.ones(2), impl=impl)
    _assert_same_bits(found, logits)


@pytest.mark.parametrize("impl", IMPLS)
def test_bits_beyond_the_vocabulary_and_logits_beside_the_rows_are_left_alone(impl):
    wide = torch.arange(1.0, 97.0).reshape(2, 48).to(DEVICES[impl])
    table = torch.full((2, 2), -1, dtype=torch.int32, device=wide.device)
    slots, penalty = torch.tensor([0, 0]).to(wide.device), torch.tensor([2.0, 4.0]).to(wide.device)
    expected = wide.clone()
    expected[:, 3:43] /= penalty[:, None]
    penalize_seen(wide[:, 3:43], table, slots, penalty, impl=impl)
    assert torch.equal(wide, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_and_tokens_may_lie_at_any_distance(impl):
    logits, seen, slots, penalty = _case(7, 90, seed=5)
    turned = torch.tensor(logits).t().contiguous().t().to(DEVICES[impl])
    args = (_table(seen, 90), torch.tensor(slots), torch.tensor(penalty))
    penalize_seen(turned, *(value.to(turned.device) for value in args), impl=impl)
    _assert_same_bits(turned.cpu().contiguous(), _expected(logits, seen, slots, penalty))


def test_slots_outside_the_table_are_refused_or_skipped_on_a_device():
    logits, table = torch.ones(3, 40), torch.full((2, 2), -1, dtype=torch.int32)
    slots, penalty = torch.tensor([-1, 1, 2]), torch.full((3,), 2.0)
    found = _penalized(logits, table, slots, penalty, impl="triton")
    assert found.mean(1).tolist() == [1.0, 0.5, 1.0]
    with pytest.raises(IndexError):
        _penalized(logits, table, slots, penalty, impl="reference")


@pytest.mark.parametrize("impl", IMPLS)
def test_no_rows_are_no_work(impl):
    table = torch.zeros((2, 2), dtype=torch.int32)
    args = (table, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert _penalized(torch.zeros(0, 40), *args, impl=impl).shape == (0, 40)


def test_bad_arguments_are_refused_by_name():
    logits, table = torch.zeros(3, 40), torch.zeros((2, 2), dtype=torch.int32)
    slots, penalty = torch.zeros(3, dtype=torch.int64), torch.ones(3)
    for message, args, impl in (
        ("logits is", (logits.double(), table, slots, penalty), "triton"),
        ("logits is", (logits[0], table, slots, penalty), "triton"),
        ("seen is", (logits, table.long(), slots, penalty), "triton"),
        ("seen is", (logits, table[:, :1], slots, penalty), "triton"),
        ("seen must be contiguous", (logits, table.t(), slots, penalty), "triton"),
        ("slots is", (logits, table, slots.int(), penalty), "triton"),
        ("slots is", (logits, table, slots[:2], penalty), "triton"),
        ("penalty is", (logits, table, slots, penalty[:2]), "triton"),
        ("penalty is", (logits, table, slots, penalty.double()), "triton"),
        ("no implementation 'gpu'", (logits, table, slots, penalty), "gpu"),
    ):
        with pytest.raises(ValueError, match=message):
            penalize_seen(*args, impl=impl)
