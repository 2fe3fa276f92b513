"""Engine driver: runs an engine through its protocol alone."""

from typing import Any

from thothy_batch.records import EngineUpdate


def drain(engine: Any) -> EngineUpdate:
    """Poll until the engine is idle; returns all updates as one."""
    whole = EngineUpdate()
    is_busy = True
    while is_busy:
        update = engine.poll(0.2)
        for name in ("results", "failures", "steps", "events", "expired", "given_back"):
            getattr(whole, name).extend(getattr(update, name))
        assert update.totals.output_tokens >= whole.totals.output_tokens, "totals never fall"
        whole.totals = update.totals
        is_busy = bool(update.num_running or update.num_waiting)
    return whole
