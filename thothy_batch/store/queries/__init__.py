"""Reads the store: reports, exports, cached results, past output lengths."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.store.queries.export import FORMATS, format_of, write_export
    from thothy_batch.store.queries.read import (
        list_runs,
        past_outputs,
        past_results,
        past_speed,
        report_data,
    )
    from thothy_batch.store.queries.result_lookup import CachedResult

__all__ = [
    "FORMATS",
    "CachedResult",
    "format_of",
    "list_runs",
    "past_outputs",
    "past_results",
    "past_speed",
    "report_data",
    "write_export",
]

__getattr__ = lazy_face(
    __name__,
    {
        "export": (
            "FORMATS",
            "format_of",
            "write_export",
        ),
        "read": (
            "list_runs",
            "past_outputs",
            "past_results",
            "past_speed",
            "report_data",
        ),
        "result_lookup": ("CachedResult",),
    },
)
