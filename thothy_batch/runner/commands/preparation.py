"""Prepares this machine for runs of a model, so that the first one starts as fast as the others."""

from typing import TypedDict

from thothy_batch.engine.core import resolve_spec
from thothy_batch.records import EngineSpec, ModelSpec
from thothy_batch.runner.commands.doctor import match_engine_process
from thothy_batch.runner.monitoring.progress import Observer


class PreparationDocument(TypedDict):
    """The document of `doctor --prepare --json`.

    num_compiled: kernels, those that were there already left out. has_limits: False while other
    programs keep the machine busy, so that the device's limits cannot be measured.
    """

    model: str
    num_compiled: int
    compile_s: float
    has_limits: bool


def prepare(observer: Observer, model: ModelSpec | None = None) -> PreparationDocument:
    """Compiles the kernels of `model` (None: the embedded one), and measures the device.

    What was done before is not done again. Nothing else may compute in this process. Raises
    ModelError for a model that cannot be used.
    """
    match_engine_process()
    # Imported late: torch takes more than a second.
    from thothy_batch.engine.calibration import prepare_machine

    done = prepare_machine(resolve_spec(EngineSpec(model=model or ModelSpec())), observer.phase)
    return {
        "model": done.model,
        "num_compiled": done.num_compiled,
        "compile_s": round(done.compile_s, 1),
        "has_limits": done.has_limits,
    }
