"""Builds the plan of a run from its manifest: entries, order, engine settings, predicted time."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.runner.planning.engine_spec import resolve_engine, size_pool

__all__ = ["resolve_engine", "size_pool"]

__getattr__ = lazy_face(
    __name__,
    {
        "engine_spec": (
            "resolve_engine",
            "size_pool",
        ),
    },
)
