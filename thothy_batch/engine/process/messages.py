"""What parent and child say to each other."""

from dataclasses import dataclass

from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request


@dataclass(frozen=True, slots=True)
class Start:
    """To the child, first: what to load."""

    spec: EngineSpec


@dataclass(frozen=True, slots=True)
class Submit:
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Planned requests that will not be submitted."""

    requests: list[Request]


@dataclass(frozen=True, slots=True)
class StopAdmitting:
    pass


@dataclass(frozen=True, slots=True)
class LimitSteps:
    """How many tokens a step may have from now on."""

    max_step_tokens: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the child, once: it can compute."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Update:
    update: EngineUpdate
    num_messages: int  # of the parent's, after Start, that were carried out before it


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child, last: why it ends."""

    error: Exception  # a ThothyError
