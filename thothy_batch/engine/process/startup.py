"""The first engine of a run: without it there is no night."""

from collections.abc import Callable

from thothy_batch.engine.protocol import RestartableEngine
from thothy_batch.errors import EngineError
from thothy_batch.records import EngineSpec

_PATIENCE = 12  # times stall_s: it may have to compile, and its weights to come over a network


def start_first(
    start: Callable[[EngineSpec], RestartableEngine], spec: EngineSpec
) -> RestartableEngine:
    """Starts an engine and waits until it is ready. Its errors are raised as they are; EngineError
    for one that hangs."""
    engine = start(spec)
    try:
        limit_s = _PATIENCE * spec.stall_s
        if not engine.ready(limit_s):
            where = engine.dump_stacks()
            raise EngineError(
                f"the engine was not ready after {limit_s:.0f} s; {where}",
                hint="where loading takes so long, raise run.stall_after",
                cause="stalled",
            )
    except BaseException:
        engine.close()
        raise
    return engine
