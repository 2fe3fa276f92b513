"""Measures the speed of one model on this machine, for `doctor` and the runs that follow it."""

from dataclasses import dataclass

from thothy_batch.engine.calibration.calibrate import calibrate
from thothy_batch.engine.cost.cost_model import StepSpeed
from thothy_batch.engine.cost.measurement_cache import SpeedKey
from thothy_batch.engine.model_loader import load_runner
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.model.config import num_parameters
from thothy_batch.records import EngineSpec, LayerGroup


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model and its measured speed, after the model was unloaded."""

    name: str
    architecture: str
    num_parameters: int
    max_model_len: int
    layer_groups: tuple[LayerGroup, ...]
    key: SpeedKey  # what the speed holds for
    speed: StepSpeed
    notes: tuple[str, ...] = ()


def measure_model(spec: EngineSpec, phase: OnPhase = ignore_phase) -> MeasuredModel:
    """Load a model into this process, with a pool as large as the spec says, and calibrate it.
    `phase` is told what is done.

    Raises ModelError for a model or setting that cannot be used, EngineError where memory does
    not suffice.
    """
    loaded = load_runner(spec, phase)
    phase("measuring the speed of the model, about 20 s")
    return MeasuredModel(
        name=loaded.model.files.name,
        architecture=loaded.model.config.architecture,
        num_parameters=num_parameters(loaded.model.config),
        max_model_len=loaded.config.max_model_len,
        layer_groups=loaded.config.layout.groups,
        key=loaded.speed_key,
        speed=calibrate(loaded.runner, loaded.config, loaded.work),
        notes=loaded.notes,
    )
