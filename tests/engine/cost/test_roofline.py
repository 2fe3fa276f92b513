"""The receipt's numerator: figures by hand, no dependence on order, no schedule that beats it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed, StepWork
from thothy_batch.engine.cost.roofline import RooflineWork, roofline_s
from thothy_batch.records import SharedPrefix

FULL = GroupWork(num_layers=2, window=None, kv_bytes_per_token=16)
LOCAL = GroupWork(num_layers=5, window=24, kv_bytes_per_token=40)
WORK = ModelWork(
    body_parameters=1000,
    head_parameters=300,
    dtype_bytes=2,
    num_heads=2,
    head_dim=4,
    groups=(FULL,),
)
HYBRID = replace(WORK, groups=(FULL, LOCAL))
F, BW = 5_000.0, 700.0  # 7 rows keep compute and reading in balance

Lengths = tuple[int, Sequence[int], Sequence[SharedPrefix]]
seeds = st.integers(0, 10_000)


def prefix(prefix_id: int, end: int) -> SharedPrefix:
    return SharedPrefix(prefix_id, end, num_readers=2)


def random_lengths(rng: random.Random) -> list[Lengths]:
    """Requests over a few common heads, each with documents that hang from it."""
    requests: list[Lengths] = []
    next_id = 0
    for _ in range(rng.randrange(1, 4)):
        path: list[SharedPrefix] = []
        for _ in range(rng.randrange(0, 3)):
            start = path[-1].end if path else 0
            path = [*path, prefix(next_id, start + rng.randrange(1, 40))]
            next_id += 1
            for _ in range(rng.randrange(0, 4)):
                prompt_len = path[-1].end + rng.randrange(0, 30)
                requests.append((prompt_len, random_outputs(rng), path))
        requests.append((rng.randrange(1, 50), random_outputs(rng), ()))
    return requests


def random_outputs(rng: random.Random) -> list[int]:
    return [rng.randrange(1, 40) for _ in range(rng.choice((1, 1, 1, 3)))]


def test_one_request_by_hand() -> None:
    """10 prompt tokens, 4 of output."""
    prefill = 2 * 1000 * 10 + 4 * 2 * 4 * 2 * (10 * 11 // 2)
    decode = max(2600 * 4 / BW, 2 * 1300 * 4 / F)
    kv = 16 * (4 * 10 + (0 + 1 + 2 + 3))
    assert roofline_s([(10, [4], ())], WORK, F, BW) == pytest.approx(prefill / F + decode + kv / BW)


def test_what_is_shared_is_computed_once_and_read_for_its_longest_reader() -> None:
    """Prefixes of 32 and 32 + 16 tokens; three readers of the first, two of both."""
    a, b = prefix(1, 32), prefix(2, 48)
    requests = [(40, [5], (a,)), (50, [7], (a, b)), (60, [3], (a, b))]
    total = RooflineWork(WORK)
    for lengths in requests:
        total.add(*lengths)
    assert total.unique_prompt_tokens == 32 + 16 + 8 + 2 + 12
    pairs = 48 * 49 // 2 + sum(range(33, 41)) + 49 + 50 + sum(range(49, 61))
    outputs = 5 + 7 + 3
    reads = 7 * 32 + 7 * 16 + 5 * 8 + 7 * 2 + 3 * 12 + 10 + 21 + 3
    assert total.seconds(F, BW) == pytest.approx(
        (2 * 1000 * 70 + 4 * 2 * 4 * 2 * pairs) / F
        + max(2600 * 7 / BW, 2 * 1300 * outputs / F)
        + 16 * reads / BW
    )


def test_samples_of_a_prompt_share_it() -> None:
    """6 prompt tokens for samples of 3 and 5 tokens: the prompt is read 5 times, not 8."""
    reads = 5 * 6 + 3 + 10
    prefill = 2 * 1000 * 6 + 4 * 2 * 4 * 2 * 21
    decode = max(2600 * 5 / BW, 2 * 1300 * 8 / F)
    assert roofline_s([(6, [3, 5], ())], WORK, F, BW) == pytest.approx(
        prefill / F + decode + 16 * reads / BW
    )


@given(seeds)
def test_a_windowed_layer_counts_what_it_sees_token_by_token(seed: int) -> None:
    rng = random.Random(seed)
    window = rng.randrange(1, 50)
    work = replace(WORK, groups=(replace(LOCAL, window=window),))
    start, end = sorted(rng.randrange(0, 60) for _ in range(2))
    prompt_len, output_len = end + 1 + rng.randrange(0, 30), rng.randrange(1, 70)
    path = [prefix(1, start), prefix(2, end)] if 0 < start < end else []

    pairs = sum(min(position + 1, window) for position in range(prompt_len))
    reads = 0
    for context in range(prompt_len + 1, prompt_len + output_len + 1):
        # Positions that the token at context - 1 sees, itself left out.
        reads += sum(1 for at in range(context - 1) if at >= context - window)
    prefill = 2 * 1000 * prompt_len + 4 * 2 * 4 * 5 * pairs
    decode = max(2600 * output_len / BW, 2 * 1300 * output_len / F)
    assert roofline_s([(prompt_len, [output_len], path)], work, F, BW) == pytest.approx(
        prefill / F + decode + 40 * reads / BW, rel=1e-12
    )


@given(seeds, st.sampled_from([WORK, HYBRID]))
def test_order_changes_nothing(seed: int, work: ModelWork) -> None:
    rng = random.Random(seed)
    requests = random_lengths(rng)
    before = roofline_s(requests, work, F, BW)
    rng.shuffle(requests)
    assert roofline_s(requests, work, F, BW) == before


@given(seeds)
def test_sharing_never_adds_work(seed: int) -> None:
    requests = random_lengths(random.Random(seed))
    alone = [(prompt_len, outputs, ()) for prompt_len, outputs, _ in requests]
    assert roofline_s(requests, HYBRID, F, BW) <= roofline_s(alone, HYBRID, F, BW)


@given(seeds, st.sampled_from([WORK, HYBRID]), st.booleans())
def test_no_schedule_is_faster_when_prompts_and_outputs_have_steps_of_their_own(
    seed: int, work: ModelWork, shares: bool
) -> None:
    rng = random.Random(seed)
    requests = random_lengths(rng)
    taken = simulated_s(requests, work, rng, mixes=False, shares=shares)
    assert taken >= roofline_s(requests, work, F, BW) * (1 - 1e-12)


@given(seeds, st.sampled_from([WORK, HYBRID]), st.booleans())
def test_no_schedule_at_all_is_faster_when_outputs_are_bound_by_compute(
    seed: int, work: ModelWork, shares: bool
) -> None:
    """A step that mixes both reads the weights once for both: only a run of outputs so few that
    reading the weights bounds them can gain by that."""
    rng = random.Random(seed)
    requests = random_lengths(rng)
    longest = max(max(outputs) for _, outputs, _ in requests)
    num_output = sum(sum(outputs) for _, outputs, _ in requests)
    operations = 2 * (work.body_parameters + work.head_parameters) * num_output
    bandwidth = BW * max(1.0, work.weight_bytes * longest * F / (BW * operations))
    taken = simulated_s(requests, work, rng, mixes=True, shares=shares, bandwidth=bandwidth)
    assert taken >= roofline_s(requests, work, F, bandwidth) * (1 - 1e-12)


@dataclass
class Piece:
    """A part of a prompt that is computed once: a shared prefix, or a request's own suffix."""

    start: int
    end: int
    parent: "Piece | None"
    at: int = field(init=False)

    def __post_init__(self) -> None:
        self.at = self.start

    @property
    def is_done(self) -> bool:
        return self.at == self.end

    @property
    def is_ready(self) -> bool:
        return not self.is_done and (self.parent is None or self.parent.is_done)


@dataclass(eq=False)
class Row:
    """A sample under way: the pieces of its prompt, its output."""

    pieces: list[Piece]
    num_left: int
    num_made: int = 0

    @property
    def is_ready(self) -> bool:
        return self.num_left > 0 and all(piece.is_done for piece in self.pieces)


def simulated_s(
    requests: list[Lengths],
    work: ModelWork,
    rng: random.Random,
    *,
    mixes: bool,
    shares: bool,
    bandwidth: float = BW,
) -> float:
    """Seconds of a schedule drawn at random, on a device that reaches its roofline."""
    model = CostModel(work, StepSpeed.from_roofline(F, bandwidth, work))
    pieces, rows = split(requests, shares)
    share = rng.choice((0.5, 0.9, 1.0))  # of what could be done that a step does
    seconds = 0.0
    while any(row.num_left for row in rows):
        decodes = mixes or rng.random() < 0.5
        prefills = mixes or not decodes
        chunks = [p for p in pieces if p.is_ready and rng.random() < share] if prefills else []
        batch = [r for r in rows if r.is_ready and rng.random() < share] if decodes else []
        if chunks or batch:
            seconds += model.step_s(step_of(chunks, batch, rng))
    return seconds


def split(requests: list[Lengths], shares: bool) -> tuple[list[Piece], list[Row]]:
    shared: dict[int, Piece] = {}
    pieces: list[Piece] = []
    rows = []
    for prompt_len, outputs, path in requests:
        parent, start, own = None, 0, []
        for node in path if shares else ():
            if node.prefix_id not in shared:
                shared[node.prefix_id] = Piece(start, node.end, parent)
                pieces.append(shared[node.prefix_id])
            parent, start = shared[node.prefix_id], node.end
            own.append(parent)
        own.append(Piece(start, prompt_len, parent))
        pieces.append(own[-1])
        rows += [Row(own, output_len) for output_len in outputs]
    return pieces, rows


def step_of(chunks: list[Piece], batch: list[Row], rng: random.Random) -> StepWork:
    """Advances what is in the step; KV that several rows have in common is read once."""
    num_tokens, pairs, context = len(batch), 0, 0
    for piece in chunks:
        left = piece.end - piece.at
        size = rng.choice((left, rng.randrange(1, left + 1)))
        pairs += size * piece.at + size * (size + 1) // 2
        piece.at += size
        num_tokens += size
    context += sum({id(p): p.end - p.start for row in batch for p in row.pieces}.values())
    for row in batch:
        row.num_made += 1
        row.num_left -= 1
        context += row.num_made
    return StepWork(num_tokens, len(batch), context, len(batch), pairs)
