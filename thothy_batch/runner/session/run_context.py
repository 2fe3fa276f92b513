"""The context of a run: everything that it has open, made once before anything starts."""

from dataclasses import dataclass
from datetime import datetime

from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.planning.pipeline import RunInputs
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.stop_conditions import StopConditions
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store import StorePaths


@dataclass(slots=True)
class RunContext:
    """One run. Its counts are zeros until the entries are known."""

    run_id: str
    options: RunOptions
    observer: Observer
    inputs: RunInputs
    paths: StorePaths
    stop_conditions: StopConditions
    counts: RunCounts
    started: datetime  # local time at which it held the store; before that, of the command
    began: float  # the same moment, of time.monotonic()
    load_s: float = 0.0  # of the engine, once it is loaded
    is_recorded: bool = False  # it has its row in the store's history
