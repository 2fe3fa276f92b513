"""Looks up how fast this machine runs a model: calibrated, or derived from the device's limits."""

from dataclasses import dataclass

from thothy_batch.engine.cost.cost_model import ModelWork, StepSpeed
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, SpeedKey, device_name

# Of what a device can do at most; where nothing was measured with the model itself.
_EFFICIENCY = 0.6


@dataclass(frozen=True, slots=True)
class KnownSpeed:
    """A speed and where it comes from: calibrated (with this model), device (its limits alone)."""

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
    """The best that is known of how fast this machine runs a model; None where nothing is."""
    cache = cache or MeasurementCache()
    name = device_name(device)
    speed = cache.load_speed(SpeedKey(name, threads, impl, dtype, work))
    if speed is not None:
        return KnownSpeed(speed, "calibrated", speed.measured_at)
    figures = cache.load_device(name, threads)
    if figures is None or impl == "reference":  # which is nowhere near them
        return None
    flops = figures.flops.get(work.product_format(dtype))
    if flops is None:  # measured before there was this format
        return None
    speed = StepSpeed.from_roofline(
        flops,
        figures.bandwidth,
        work,
        efficiency=_EFFICIENCY,
        attention_flops=figures.flops[dtype],
    )
    return KnownSpeed(speed, "device", figures.measured_at)
