"""Measures the speed of the device and of a loaded model."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.engine.calibration.device_limits import measure_device
    from thothy_batch.engine.calibration.measured_model import MeasuredModel, measure_model
    from thothy_batch.engine.calibration.preparation import Preparation, prepare_machine

__all__ = ["MeasuredModel", "Preparation", "measure_device", "measure_model", "prepare_machine"]

__getattr__ = lazy_face(
    __name__,
    {
        "device_limits": ("measure_device",),
        "measured_model": (
            "MeasuredModel",
            "measure_model",
        ),
        "preparation": (
            "Preparation",
            "prepare_machine",
        ),
    },
)
