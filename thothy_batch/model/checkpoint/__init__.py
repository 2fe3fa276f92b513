"""Finds the files of a checkpoint: embedded, in a directory, or on the hub. No torch."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.model.checkpoint.download import download_weights
    from thothy_batch.model.checkpoint.locate import is_on_hub, locate_model

__all__ = ["download_weights", "is_on_hub", "locate_model"]

__getattr__ = lazy_face(
    __name__,
    {
        "download": ("download_weights",),
        "locate": (
            "is_on_hub",
            "locate_model",
        ),
    },
)
