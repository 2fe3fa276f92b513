"""The report of a run, for a terminal, a mail or a browser.

Knows only the values of `store.queries.read.report_data`; reads no store, asks no clock.
"""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.report.document import JobRow, NightRow, ReportDocument
    from thothy_batch.report.formatting import (
        NOTHING,
        clock,
        count,
        duration,
        escape_controls,
        number_format,
        rate,
        sanitize,
    )
    from thothy_batch.report.html import render_html
    from thothy_batch.report.layout import Column, FigureTable, Line, pairs_table, to_text
    from thothy_batch.report.text import report_blocks

__all__ = [
    "NOTHING",
    "Column",
    "FigureTable",
    "JobRow",
    "Line",
    "NightRow",
    "ReportDocument",
    "clock",
    "count",
    "duration",
    "escape_controls",
    "number_format",
    "pairs_table",
    "rate",
    "render_html",
    "report_blocks",
    "sanitize",
    "to_text",
]

__getattr__ = lazy_face(
    __name__,
    {
        "document": (
            "JobRow",
            "NightRow",
            "ReportDocument",
        ),
        "formatting": (
            "NOTHING",
            "clock",
            "count",
            "duration",
            "escape_controls",
            "number_format",
            "rate",
            "sanitize",
        ),
        "html": ("render_html",),
        "layout": (
            "Column",
            "FigureTable",
            "Line",
            "pairs_table",
            "to_text",
        ),
        "text": ("report_blocks",),
    },
)
