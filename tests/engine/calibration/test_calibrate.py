"""Calibration finds the speed of a runner that keeps to a known one."""

from typing import Any

import numpy as np
import pytest
from layouts import uniform_layout

from thothy_batch.engine.calibration.calibrate import calibrate
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed, StepWork
from thothy_batch.engine.execution.batch import Batch
from thothy_batch.engine.execution.dummy_batches import step_work

WORK = ModelWork(1_000_000, 200_000, 4, 4, 16, (GroupWork(3, None, 768),))
TRUTH = StepSpeed(
    linears=((1, 0.004), (8, 0.005), (512, 0.2)),
    head=((1, 0.001), (128, 0.03)),
    kv_byte_s=2e-9,
    pair_s=3e-8,
    shared_pair_s=1e-8,
)


class TimedRunner:
    """Takes as long as the cost model says; twice as long at a number of rows that is new."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: set[int] = set()

    def clock(self) -> float:
        return self.now

    def run(self, batch: Batch) -> np.ndarray:
        seconds = CostModel(WORK, TRUTH).step_s(step_work(batch))
        rows = len(batch.token_ids)
        self.now += seconds if rows in self.seen else 2 * seconds
        self.seen.add(rows)
        return np.zeros(len(batch.logits_rows), np.int64)


def measured(config_of: Any, **settings: Any) -> StepSpeed:
    defaults = {"num_blocks": 600, "max_seqs": 128, "max_step_tokens": 512, "max_model_len": 4096}
    config = config_of(layout=uniform_layout(16), **(defaults | settings))
    runner = TimedRunner()
    return calibrate(runner, config, WORK, clock=runner.clock)


STEPS = [
    StepWork(1, 1, 700, 1, 0),
    StepWork(40, 40, 16_000, 40, 0),
    StepWork(512, 0, 0, 0, 512 * 300),
    StepWork(90, 70, 30_000, 64, 5_000, shared_pairs=20_000),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_measured_speed_predicts_what_the_runner_takes(config_of: Any, step: StepWork) -> None:
    found = CostModel(WORK, measured(config_of)).step_s(step)
    assert found == pytest.approx(CostModel(WORK, TRUTH).step_s(step), rel=0.08)


@pytest.mark.parametrize("settings", [{"max_seqs": 1}, {"max_step_tokens": 1, "max_seqs": 1}])
def test_an_engine_of_one_row_can_be_measured(config_of: Any, settings: dict[str, int]) -> None:
    found = measured(config_of, **settings)
    assert found.linears
    assert found.head
    assert found.shared_pair_s >= 0.0
