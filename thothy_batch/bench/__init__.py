"""Measures the engine on a workload: requests generated or read, run in this process.

Imports neither DuckDB nor the manifest reader: it runs on machines without them.
"""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.bench.figures import BenchFigures
    from thothy_batch.bench.measure import check_order, run_bench, vocabulary_of
    from thothy_batch.bench.workload_options import WorkloadOptions

__all__ = ["BenchFigures", "WorkloadOptions", "check_order", "run_bench", "vocabulary_of"]

__getattr__ = lazy_face(
    __name__,
    {
        "figures": ("BenchFigures",),
        "measure": (
            "check_order",
            "run_bench",
            "vocabulary_of",
        ),
        "workload_options": ("WorkloadOptions",),
    },
)
