"""Finds the files of a checkpoint: embedded, in a directory, or on the hub. No torch."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.model.checkpoint.locate import locate_model

__all__ = ["locate_model"]

__getattr__ = lazy_face(
    __name__,
    {
        "locate": ("locate_model",),
    },
)
