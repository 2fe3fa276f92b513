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
    """The best known speed of a model on this machine; None where nothing is known, or only what
    was measured while other programs kept it busy."""
    cache = cache or MeasurementCache()
    name = device_name(device)
    speed = cache.quiet_speed(SpeedKey(name, threads, impl, dtype, work))
    if speed is not None:
        return KnownSpeed(speed, "calibrated", speed.measured_at)
    limits = cache.quiet_device(name, threads)
    if limits is None or impl == "reference":  # far below the limits
        return None
    flops, attention_flops = map(limits.flops.get, (work.product_format(dtype), dtype))
    if flops is None or attention_flops is None:  # no run has needed this format yet
        return None
    speed = StepSpeed.from_roofline(
        flops,
        limits.bandwidth,
        work,
        efficiency=_EFFICIENCY,
        attention_flops=attention_flops,
    )
    return KnownSpeed(speed, "device", limits.measured_at)
