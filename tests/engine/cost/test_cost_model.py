"""The cost model: a closed form against the sum that it stands for, a roofline by hand."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.engine.cost.cost_model import (
    CostModel,
    GroupWork,
    ModelWork,
    StepSpeed,
    StepWork,
    model_work,
    rows_at_rate,
    tokens_read,
)
from thothy_batch.model.config.model_config import kv_bytes_per_token, load_config

FULL = GroupWork(num_layers=2, window=None, kv_bytes_per_token=200)
LOCAL = GroupWork(num_layers=6, window=16, kv_bytes_per_token=600)
WORK = ModelWork(
    body_parameters=1000,
    head_parameters=500,
    dtype_bytes=2,
    num_heads=4,
    head_dim=8,
    groups=(FULL,),
)
MIXED = replace(WORK, groups=(FULL, LOCAL))
SPEED = StepSpeed(
    linears=((8, 1.0), (32, 2.0), (128, 8.0)),
    head=((1, 0.5), (16, 2.0)),
    kv_byte_s=0.001,
    pair_s=0.25,
    shared_pair_s=0.125,
    step_s=10.0,
    row_s=3.0,
)
# Bytes, seconds: kv_byte_s alone.
READING = StepSpeed(linears=((1, 0.0),), head=((1, 0.0),), kv_byte_s=1, pair_s=0, shared_pair_s=0)

decode_steps = st.builds(
    lambda context, rows, steps, shared: StepWork(
        num_tokens=rows,
        num_sampled=rows,
        decode_context=rows + context,
        num_decode=rows,
        prefill_pairs=0,
        num_steps=steps,
        shared_pairs=shared,
    ),
    st.integers(0, 300),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(0, 500),
)


@given(decode_steps, st.sampled_from([WORK, MIXED]))
def test_a_batch_costs_what_its_steps_cost_one_by_one(step: StepWork, work: ModelWork) -> None:
    model = CostModel(work, SPEED)
    one_by_one = sum(
        model.step_s(
            replace(
                step, num_steps=1, decode_context=step.decode_context + number * step.num_decode
            )
        )
        for number in range(step.num_steps)
    )
    assert model.step_s(step) == pytest.approx(one_by_one, rel=1e-12)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(1, 50))
def test_windowed_reads_exceed_the_rows_own_by_the_smaller_imbalance(
    contexts: list[int], window: int
) -> None:
    """Too much by what some rows have beyond the window, or by what the others lack."""
    exact = sum(min(context, window) for context in contexts)
    beyond = sum(max(0, context - window) for context in contexts)
    lacking = sum(max(0, window - context) for context in contexts)
    taken = tokens_read(sum(contexts), len(contexts), 1, window)
    assert taken == exact + min(beyond, lacking)


def test_every_part_of_a_step_is_charged() -> None:
    """8 prefill and 2 decode rows, 3 of them sampled: each term by hand."""
    step = StepWork(
        num_tokens=10,
        num_sampled=3,
        decode_context=100,
        num_decode=2,
        prefill_pairs=60,
        shared_pairs=40,
    )
    host = 10 + 2 * 3.0
    linears = 1 + (2 - 1) * (10 - 8) / (32 - 8)
    head = 0.5 + (2.0 - 0.5) * (3 - 1) / (16 - 1)
    kv = 100 * 200 * 0.001
    pairs = 2 * (60 * 0.25 + 40 * 0.125)
    assert CostModel(WORK, SPEED).step_s(step) == pytest.approx(host + linears + head + kv + pairs)
    # A window of 16: 2 rows read 32 of 100 tokens and see 32 of 40 shared ones; 8 rows 60 pairs.
    local = 32 * 600 * 0.001 + 6 * (60 * 0.25 + 32 * 0.125)
    both = host + linears + head + kv + pairs + local
    assert CostModel(MIXED, SPEED).step_s(step) == pytest.approx(both)


@pytest.mark.parametrize(
    ("rows", "seconds"), [(0, 0.0), (1, 1.0), (8, 1.0), (20, 1.5), (128, 8.0), (512, 32.0)]
)
def test_linears_follow_the_measured_points(rows: int, seconds: float) -> None:
    step = StepWork(num_tokens=rows, num_sampled=0, decode_context=0, num_decode=0, prefill_pairs=0)
    speed = replace(SPEED, step_s=0.0)
    assert CostModel(WORK, speed).step_s(step) == pytest.approx(seconds)


@given(st.integers(1, 500), st.integers(0, 10_000))
def test_a_roofline_decode_step_is_the_formula(num_rows: int, context: int) -> None:
    """max(weight bytes / BW, 2 (P + P_h) B / F) + k * contexts / BW."""
    flops, bandwidth = 3e4, 100.0
    model = CostModel(WORK, StepSpeed.from_roofline(flops, bandwidth, WORK))
    step = StepWork(num_rows, num_rows, context, num_rows, prefill_pairs=0)
    linears = max(3000 / bandwidth, 2 * 1500 * num_rows / flops)
    assert model.step_s(step) == pytest.approx(linears + 200 * context / bandwidth, rel=1e-12)


def test_a_roofline_prompt_is_its_operations() -> None:
    """2 P T / F + 4 H D pairs layers / F, where the linears are bound by compute."""
    flops, bandwidth, num_tokens = 3e4, 1e6, 64
    model = CostModel(WORK, StepSpeed.from_roofline(flops, bandwidth, WORK))
    pairs = num_tokens * (num_tokens + 1) // 2
    step = StepWork(num_tokens, 0, 0, 0, prefill_pairs=pairs)
    operations = 2 * 1000 * num_tokens + 4 * 4 * 8 * pairs * 2
    assert model.step_s(step) == pytest.approx(operations / flops, rel=1e-12)


def test_half_the_efficiency_takes_twice_the_time() -> None:
    step = StepWork(40, 4, 100, 4, prefill_pairs=500)
    whole, half = (
        CostModel(MIXED, StepSpeed.from_roofline(3e4, 100.0, MIXED, efficiency=share)).step_s(step)
        for share in (1.0, 0.5)
    )
    assert half == pytest.approx(2 * whole)


def test_a_window_larger_than_every_context_saves_nothing() -> None:
    rng = random.Random(1)
    wide = replace(WORK, groups=(replace(FULL, window=10_000),))
    for _ in range(50):
        num_rows = rng.randrange(1, 9)
        step = StepWork(
            num_tokens=num_rows,
            num_sampled=num_rows,
            decode_context=sum(rng.randrange(1, 500) for _ in range(num_rows)),
            num_decode=num_rows,
            prefill_pairs=0,
            num_steps=rng.randrange(1, 100),
        )
        assert CostModel(wide, SPEED).step_s(step) == CostModel(WORK, SPEED).step_s(step)


def test_decode_steps_without_rows_read_nothing() -> None:
    assert CostModel(MIXED, READING).step_s(StepWork(5, 0, 0, 0, prefill_pairs=15)) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_work_of_a_model_follows_its_configuration(tmp_path: Path, dtype: str) -> None:
    settings = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = load_config(tmp_path)
    work = model_work(config, dtype)
    num_bytes = {"float32": 4, "bfloat16": 2}[dtype]
    # By hand: q, k, v, o; gate, up, down; two norms of the layer, two of the heads; the last norm.
    layer = 16 * 8 * (4 + 2 + 2 + 4) + 3 * 16 * 32 + 2 * 16 + 2 * 8
    assert work.body_parameters == 3 * layer + 16
    assert work.head_parameters == 1600
    assert work.weight_bytes == (3 * layer + 16 + 1600) * num_bytes
    assert sum(g.kv_bytes_per_token for g in work.groups) == kv_bytes_per_token(config, dtype)
    assert [(g.num_layers, g.window) for g in work.groups] == [(3, None)]


def test_the_rows_that_reach_a_rate_are_the_fewest() -> None:
    curve = ((1, 1.0), (64, 1.0), (512, 2.0), (1024, 2.2), (4096, 8.5))
    assert rows_at_rate(curve) == 1024, "481.9 a second at most"
    assert rows_at_rate(curve, 0.5) == 512
    assert rows_at_rate(((8, 0.0),)) == 0, "nothing was measured"
    assert rows_at_rate(()) == 0
