"""The pipeline resolves a manifest once: nothing after it reads `auto`."""

from typing import Any

from thothy_batch.manifest.settings import load_manifest
from thothy_batch.runner.planning.pipeline import open_inputs, plan_engine, read_entries
from thothy_batch.runner.work.assignment import assign


def test_device_and_implementation_are_resolved_before_the_entries_are_read(
    raw_project: Any,
) -> None:
    inputs = open_inputs(load_manifest(raw_project.manifest))
    assert (inputs.spec.device, inputs.spec.impl) == ("cpu", "cpu")
    entries = list(read_entries(inputs, raw_project.notes))
    assignment = assign(entries, {}, run_seed=0)
    plan = plan_engine(inputs, assignment.pending, history={}, time_left=lambda: None)
    assert (plan.spec.device, plan.spec.impl) == ("cpu", "cpu")
    assert plan.spec.fingerprint == inputs.model_info.fingerprint
    assert plan.spec.needed_tokens == sum(len(e.prompt_token_ids) + 16 for e in entries)
    assert len(plan.run_plan.pending) == 12
    assert not plan.run_plan.unfit
