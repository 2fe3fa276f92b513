"""The text of a report as a pipe gets it."""

from thothy_batch.report import ReportDocument, report_blocks, to_text


def render_text(report: ReportDocument, width: int = 100) -> str:
    """`width`: cells of its tables."""
    return to_text(report_blocks(report), width)
