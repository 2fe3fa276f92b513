"""Holds what a run has open: options, store paths, locks, stop conditions."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.runner.session.locking import device_locked, holder_of
    from thothy_batch.runner.session.options import IfLocked, RunOptions, time_budget_s
    from thothy_batch.runner.session.summary import RunSummary

__all__ = ["IfLocked", "RunOptions", "RunSummary", "device_locked", "holder_of", "time_budget_s"]

__getattr__ = lazy_face(
    __name__,
    {
        "locking": (
            "device_locked",
            "holder_of",
        ),
        "options": (
            "IfLocked",
            "RunOptions",
            "time_budget_s",
        ),
        "summary": ("RunSummary",),
    },
)
