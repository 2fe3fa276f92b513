"""Launch settings: the table and its document, the search by a clock that tests set, and attention
with any of its settings, in the interpreter."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_oracle import Case, ExactAttention

from thothy_kernels import tuning
from thothy_kernels.gated_activation import triton_impl as gated_in_triton
from thothy_kernels.launch import is_interpreted
from thothy_kernels.paged_attention import triton_impl
from thothy_kernels.paged_attention.triton_impl.aot_variants import variants
from thothy_kernels.paged_attention.triton_impl.autotune import trials
from thothy_kernels.paged_attention.triton_impl.shapes import DECODE, PREFILL, AttentionShape
from thothy_kernels.rms_norm import triton_impl as norm_in_triton
from thothy_kernels.rope_and_write import triton_impl as rope_in_triton
from thothy_kernels.sample import triton_impl as sample_in_triton
from thothy_kernels.tuning import LaunchSettings, Trial, normal, search

interpreted = pytest.mark.skipif(not is_interpreted(), reason="computes on CPU tensors")
HOPPER, ADA = 228 << 10, 100 << 10  # shared memory of a multiprocessor
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_table", {})


DEFAULT, FAST, SLOW, WRONG, FAILING = (LaunchSettings(tile=1 << i) for i in range(5))
TIMES = {DEFAULT: 1.0, FAST: 0.5, SLOW: 2.0, WRONG: 0.1, FAILING: 0.1}


def current() -> LaunchSettings:
    return tuning.settings_of("op", "key", DEFAULT)


def trial_of(
    *candidates: LaunchSettings, failing: LaunchSettings = FAILING, wrong: float = 7.0
) -> Trial:
    """An operation whose output shows if it went wrong."""

    def launch() -> tuple[torch.Tensor, ...]:
        if current() == failing:
            raise RuntimeError("out of resource: shared memory\nand a trace")
        return (torch.full((3,), wrong if current() == WRONG else 1.0),)

    return Trial("op", "key", candidates, lambda: launch)


def timer(launch: Callable[[], object]) -> float:
    launch()
    return TIMES[current()]


def test_the_fastest_candidate_wins() -> None:
    tuned = search(trial_of(DEFAULT, SLOW, FAST), timer)
    assert tuned.settings == FAST
    assert tuned.seconds == {DEFAULT: 1.0, SLOW: 2.0, FAST: 0.5}
    assert tuned.is_complete
    assert not tuned.notes
    assert current() == DEFAULT, "a search leaves the table as it was"


@pytest.mark.parametrize("wrong", [7.0, 1.01, float("nan")])
def test_candidates_that_fail_or_compute_something_else_are_dropped_by_name(wrong: float) -> None:
    tuned = search(trial_of(DEFAULT, FAILING, WRONG, FAST, wrong=wrong), timer)
    assert tuned.settings == FAST
    assert set(tuned.seconds) == {DEFAULT, FAST}
    failed, wrong = tuned.notes
    assert f"{FAILING} is left out (out of resource: shared memory)" in failed
    assert f"{WRONG} is left out (its results are not those of the default)" in wrong


def test_the_default_stays_where_nothing_is_clearly_faster() -> None:
    def nearly(launch: Callable[[], object]) -> float:
        return 1.0 if current() == DEFAULT else 0.99

    assert search(trial_of(DEFAULT, FAST), nearly).settings == DEFAULT


def test_nothing_is_tried_where_the_default_fails() -> None:
    tuned = search(trial_of(DEFAULT, FAST, failing=DEFAULT), timer)
    assert tuned.settings == DEFAULT
    assert not tuned.is_complete
    assert len(tuned.notes) == 1


def test_a_search_ends_at_its_deadline_with_the_best_so_far() -> None:
    moments = iter([0.0, 1.0, 2.0, 3.0])
    tuned = search(trial_of(DEFAULT, FAST, SLOW), timer, 2.0, lambda: next(moments))
    assert tuned.settings == FAST
    assert not tuned.is_complete
    assert search(trial_of(DEFAULT), timer, 0.0, lambda: 1.0).seconds == {}


def test_settings_are_restored_when_a_launch_fails() -> None:
    with pytest.raises(KeyError), tuning.using("op", "key", FAST), tuning.using("op", "key", SLOW):
        raise KeyError
    assert tuning.settings_of("op", "key", DEFAULT) == DEFAULT


def test_the_table_survives_a_round_trip() -> None:
    full = LaunchSettings(tile=64, rows=128, warps=8, stages=3, programs=2)
    settings = {("a", "x"): full, ("a", "y"): FAST, ("b", "x"): SLOW}
    found = tuning.parse(json.loads(json.dumps(tuning.plain(settings))))
    assert found == settings
    tuning.adopt(found)
    assert tuning.settings_of("a", "x", DEFAULT) == full
    assert tuning.settings_of("b", "x", DEFAULT) == SLOW
    assert tuning.settings_of("b", "y", DEFAULT) == DEFAULT


def entry(**changes: Any) -> dict[str, Any]:
    return {"tile": 64, "rows": 1, "warps": 4, "stages": 2, "programs": 1} | changes


@pytest.mark.parametrize(
    "value",
    [
        entry(tile=48), entry(tile=0), entry(tile=-64), entry(tile=1 << 17), entry(tile=64.0),
        entry(tile="64"), entry(tile=None), entry(warps=32), entry(warps=3), entry(warps=True),
        entry(stages=0), entry(stages=6), entry(rows=1 << 15), entry(programs=17), entry(more=1),
        {"tile": 64}, [], None, 64,
    ],
)  # fmt: skip
def test_a_document_with_one_bad_entry_is_refused_as_a_whole(value: Any) -> None:
    with pytest.raises(ValueError, match="op"):
        tuning.parse({"fine": {"key": entry()}, "op": {"key": value}})


@pytest.mark.parametrize("document", [None, [], "settings", 3, {"op": [1]}, {"op": {1: entry()}}])
def test_a_foreign_document_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="no table"):
        tuning.parse(document)


SHAPES = [
    AttentionShape(32, 8, 128, 32, torch.bfloat16),
    AttentionShape(16, 8, 256, 32, torch.bfloat16),
    AttentionShape(28, 4, 64, 32, torch.bfloat16),
    AttentionShape(16, 8, 128, 32, torch.float32),
    AttentionShape(70, 1, 32, 16, torch.float32),
]


@pytest.mark.parametrize("shared_bytes", [ADA, HOPPER])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_candidates_fit_the_device(shape: AttentionShape, shared_bytes: int) -> None:
    decode = shape.decode_candidates(shared_bytes)
    prefill = shape.prefill_candidates(shared_bytes)
    assert decode[0] == shape.decode_default
    assert prefill[0] == shape.prefill_default
    tile_bytes = 2 * shape.width * shape.dtype.itemsize  # of a position's key and value
    for found in (decode, prefill):
        assert 3 <= len(found) <= 10
        assert len(set(found)) == len(found)
        for settings in found[1:]:
            in_flight = settings.programs * (settings.stages // 2) * settings.tile * tile_bytes
            assert in_flight < shared_bytes
            assert settings.tile >= 16
    assert all(shape.prefill_queries(settings) >= 1 for settings in prefill)


def test_what_is_compiled_ahead_has_the_defaults() -> None:
    before = variants()
    for shape in SHAPES:
        decode, prefill = shape.decode_candidates(HOPPER)[-1], shape.prefill_candidates(HOPPER)[-1]
        tuning.adopt({(DECODE, shape.key): decode, (PREFILL, shape.key): prefill})
        assert shape.decode_settings == decode
    assert variants() == before


SMALL = AttentionShape(2, 1, 16, 8, torch.float32)
LENS = [(70, 1), (90, 1), (66, 1), (1, 1), (60, 37)]


def use(decode: LaunchSettings, prefill: LaunchSettings) -> None:
    tuning.adopt({(DECODE, SMALL.key): decode, (PREFILL, SMALL.key): prefill})


def distinct(found: tuple[LaunchSettings, ...]) -> list[LaunchSettings]:
    """One for each way of cutting the work: warps and stages are nothing in the interpreter."""
    return list({(s.tile, s.rows, s.programs): s for s in found}.values())


DECODES, PREFILLS = (
    distinct(found) for found in (SMALL.decode_candidates(HOPPER), SMALL.prefill_candidates(HOPPER))
)


@pytest.fixture(scope="module")
def case() -> Case:
    """Rows that share blocks, one that cannot, and a chunk of a prompt."""
    return Case(LENS, shape=(2, 1, 16), block_size=8, shared=((0, 3, 0, 7),))


@pytest.fixture(scope="module")
def exact(case: Case) -> torch.Tensor:
    return case.oracle()


def attend(case: Case, meta: Any) -> torch.Tensor:
    return triton_impl.paged_attention(case.q, case.k, case.v, meta, case.scale, 0.0).double()


def settings_in(meta: Any) -> tuple[LaunchSettings, LaunchSettings]:
    """Settings that a plan was made with."""
    plan = meta.plans[SMALL]
    return plan.decode.settings, plan.prefill.settings


@pytest.mark.few(1)
@interpreted
@pytest.mark.parametrize("number", range(max(len(DECODES), len(PREFILLS))))
def test_attention_is_the_same_with_any_settings(
    number: int, case: Case, exact: torch.Tensor
) -> None:
    decode, prefill = DECODES[number % len(DECODES)], PREFILLS[number % len(PREFILLS)]
    use(decode, prefill)
    meta = case.meta(grouped=True)
    out = attend(case, meta)
    assert settings_in(meta) == (decode, prefill)
    assert ((out - exact).abs() <= case.float32_error()).all()


@pytest.mark.rest
@interpreted
def test_a_plan_is_launched_with_the_settings_that_it_was_made_with(case: Case) -> None:
    """Whatever the table says by then: tiles were counted, and queries dealt out, for them."""
    meta, later = case.meta(grouped=True), case.meta(grouped=True)
    first = attend(case, meta)
    use(DECODES[-1], PREFILLS[-1])
    meta.contexts_grew()
    assert torch.equal(attend(case, meta), first)
    assert settings_in(meta) == (SMALL.decode_default, SMALL.prefill_default)
    attend(case, later)
    assert settings_in(later) == (DECODES[-1], PREFILLS[-1])


OPERATIONS = (DECODE, PREFILL, "sample.scan", "rms_norm", "gated_activation", "rope_and_write_kv")


def small_trials() -> dict[str, Trial]:
    """One of each operation. The pool is full of NaN: a trial writes what it reads."""
    keys, values = (torch.full((40, 1, 8, 16), float("nan")) for _ in range(2))
    found = [
        *trials(2, (keys, values), longest=32, num_rows=4),
        sample_in_triton.trial(3000, CPU, num_rows=1),
        norm_in_triton.trial(48, torch.float32, CPU, num_rows=5),
        gated_in_triton.trial(1500, "silu", torch.float32, CPU, num_rows=2),
        rope_in_triton.trial(2, (keys, values), True, num_tokens=5),
    ]
    return {trial.op: trial for trial in found}


@pytest.mark.few(2)
@interpreted
@torch.inference_mode()
@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_is_measured_and_computes_the_same(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default against the candidate that differs most; launches look up the trial's key."""
    asked: set[object] = set()

    class Recorder(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    trial = small_trials()[op]
    first, last = trial.candidates[0], trial.candidates[-1]

    def prefers_last(launch: Callable[[], object]) -> float:
        return 0.5 if tuning.settings_of(op, trial.key, first) == last else 1.0

    monkeypatch.setattr(tuning, "_table", Recorder())
    trial.prepare()()
    assert (op, trial.key) in asked
    tuned = search(Trial(op, trial.key, (first, last), trial.prepare), prefers_last)
    assert not tuned.notes
    assert tuned.settings == last


@interpreted
def test_the_decode_trial_has_rows_alone_and_in_groups() -> None:
    keys, values = (torch.full((40, 1, 8, 16), float("nan")) for _ in range(2))
    decode, _ = trials(2, (keys, values), longest=32, num_rows=4)
    alone, grouped = decode.prepare()()
    assert alone.shape == grouped.shape == (4, 2, 16)
    q, blocks = normal((4, 2, 16), torch.float32, CPU, seed=1), 0
    for row, length in enumerate((14, 20, 26)):
        k, v = (pool[blocks:].transpose(1, 2).flatten(0, 1)[:length] for pool in (keys, values))
        exact = ExactAttention(q[row : row + 1], k, v, torch.ones(1, length).bool(), 0.25)
        for found in (alone, grouped):
            assert ((found[row] - exact.rows[0]).abs() <= exact.float32_error()[0]).all()
        blocks += -(-length // 8)
    assert not torch.equal(alone[3], grouped[3]), "the longer half reads a common beginning"
