"""Tracks pending requests: assignment to entries, attempts, stages, counts, roofline receipt."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.runner.work.count_document import JobDocument
    from thothy_batch.runner.work.counts import JobCount
    from thothy_batch.runner.work.roofline_receipt import RooflineReceipt

__all__ = ["JobCount", "JobDocument", "RooflineReceipt"]

__getattr__ = lazy_face(
    __name__,
    {
        "count_document": ("JobDocument",),
        "counts": ("JobCount",),
        "roofline_receipt": ("RooflineReceipt",),
    },
)
