"""Deadlines are moments of the wall clock, in seconds since 1970.

The monotonic clock stands still while the machine is suspended, so a deadline measured by it would
come too late by that time, and it does not follow a wall clock that is set.
"""

import time


def has_passed(deadline: float) -> bool:
    """Return whether the moment has come."""
    return time.time() >= deadline


def ends_at(deadline: float) -> float:
    """Return the time of the monotonic clock at the deadline, if the machine stays awake."""
    return time.monotonic() + deadline - time.time()
