"""The plan of a run before its engine is loaded: specification, expected settings, order."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from thothy_batch.engine.core import EngineConfig
from thothy_batch.engine.cost import KnownSpeed
from thothy_batch.plan import OutputEstimates
from thothy_batch.records import EngineInfo, EngineSpec
from thothy_batch.runner.planning.run_plan import RunPlan


@dataclass(slots=True)
class EnginePlan:
    """The engine to start, its expected settings, and the requests in their order."""

    spec: EngineSpec  # the engine is started with this
    config: EngineConfig  # expected of that specification
    order: str
    estimates: OutputEstimates
    known_speed: KnownSpeed | None
    run_plan: RunPlan
    _plan: Callable[[EngineConfig], RunPlan]

    def replan_for_pool(self, info: EngineInfo) -> None:
        """Plan again where the loaded engine's pool is smaller than was expected."""
        num_blocks = info.engine.num_blocks
        if num_blocks < self.config.num_blocks:
            self.run_plan = self._plan(replace(self.config, num_blocks=num_blocks))
