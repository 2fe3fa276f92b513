"""Predicts a step and the roofline from measured speed; caches the measurements. No torch."""

from thothy_batch.engine.cost.cost_model import ModelWork, StepSpeed
from thothy_batch.engine.cost.known_speed import KnownSpeed, lookup_speed
from thothy_batch.engine.cost.kv_capacity import capacity_table
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, device_name, measured_now
from thothy_batch.engine.cost.roofline import RooflineWork

__all__ = [
    "KnownSpeed",
    "MeasurementCache",
    "ModelWork",
    "RooflineWork",
    "StepSpeed",
    "capacity_table",
    "device_name",
    "lookup_speed",
    "measured_now",
]
