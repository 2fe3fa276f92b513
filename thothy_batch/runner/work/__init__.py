"""Tracks pending requests: assignment to entries, attempts, stages, counts, roofline receipt."""

from thothy_batch.runner.work.count_document import JobDocument
from thothy_batch.runner.work.counts import JobCount
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt

__all__ = ["JobCount", "JobDocument", "RooflineReceipt"]
