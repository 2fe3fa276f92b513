"""The messages between an engine's parent and its child. Imports the standard library only.

The two sides may have monotonic clocks of different origin, or be different machines. A deadline
therefore travels as the seconds that were left when it was sent, and the receiver counts them from
the arrival of the message. No wall clock takes part: setting one changes nothing. Assumed is that
a message travels in far less time than a request computes; a deadline becomes later by that time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request


@dataclass(frozen=True, slots=True)
class Start:
    """To the child, first: what to load."""

    spec: EngineSpec


@dataclass(frozen=True, slots=True)
class Submit:
    """Requests to queue. Their `ends_at` are removed; see `seconds_left`."""

    requests: list[Request]
    seconds_left: dict[int, float]  # by request_id, when sent; none: the request has no deadline

    @classmethod
    def of(cls, requests: Iterable[Request], now: float) -> "Submit":
        """`now`: of the sender's clock, which `Request.ends_at` is measured by."""
        bare, left = [], {}
        for request in requests:
            if request.ends_at is not None:
                left[request.request_id] = request.ends_at - now
                request = replace(request, ends_at=None)
            bare.append(request)
        return cls(bare, left)

    def with_deadlines(self, arrived_at: float) -> list[Request]:
        """The requests with `ends_at` by the receiver's clock; `arrived_at`: its time when the
        message arrived."""
        return [
            request
            if (left := self.seconds_left.get(request.request_id)) is None
            else replace(request, ends_at=arrived_at + left)
            for request in self.requests
        ]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Requests that are not wanted any more; without prompts."""

    requests: list[Request]


@dataclass(frozen=True, slots=True)
class StopAdmitting:
    """Nothing more is to be started."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Requests that were never started are to be given back."""


@dataclass(frozen=True, slots=True)
class LimitSteps:
    """The most tokens that a step may have from now on."""

    max_step_tokens: int


ToChild = Submit | Cancel | StopAdmitting | GiveBack | LimitSteps  # once it is ready


@dataclass(frozen=True, slots=True)
class Phase:
    """From the child, before it is ready: what it does, and how far it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """From the child, once: it can compute."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Update:
    """From the child: what happened since its last update."""

    update: EngineUpdate
    num_messages: int  # of the parent's, after Start, that were carried out before it


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child, last: why it ends."""

    error: Exception  # a ThothyError
