"""Measures the speed of the device and of a loaded model."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.engine.calibration.device_limits import measure_device
    from thothy_batch.engine.calibration.measured_model import MeasuredModel, measure_model

__all__ = ["MeasuredModel", "measure_device", "measure_model"]

__getattr__ = lazy_face(
    __name__,
    {
        "device_limits": ("measure_device",),
        "measured_model": (
            "MeasuredModel",
            "measure_model",
        ),
    },
)
