"""Looks up how fast this machine runs a model: calibrated, or derived from the device's limits."""

from dataclasses import dataclass

from thothy_batch.engine.cost.cost_model import ModelWork, StepSpeed
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, SpeedKey, device_name

# Share of the device's limits that is assumed where the model itself was not measured.
_EFFICIENCY = 0.6


@dataclass(frozen=True, slots=True)
class KnownSpeed:
    """A speed and its source: calibrated (with this model) or device (its limits alone)."""

    speed: StepSpeed
    source: str
    measured_at: str


def lookup_speed(
    work: ModelWork,
    *,
    threads: int,
    impl: str,
    dtype: str,
    device: str = "cpu",
    cache: MeasurementCache | None = None,
) -> KnownSpeed | None:
    """The best known speed of a model on this machine; None where nothing is known."""
    cache = cache or MeasurementCache()
    name = device_name(device)
    speed = cache.load_speed(SpeedKey(name, threads, impl, dtype, work))
    if speed is not None:
        return KnownSpeed(speed, "calibrated", speed.measured_at)
    limits = cache.load_device(name, threads)
    if limits is None or impl == "reference":  # far below the limits
        return None
    flops = limits.flops.get(work.product_format(dtype))
    if flops is None:  # measured by a version without this format
        return None
    speed = StepSpeed.from_roofline(
        flops,
        limits.bandwidth,
        work,
        efficiency=_EFFICIENCY,
        attention_flops=limits.flops[dtype],
    )
    return KnownSpeed(speed, "device", limits.measured_at)
