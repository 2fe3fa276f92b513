"""The command line: options in; tables, documents and exit codes out. Contains no other logic."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.cli.main import main

__all__ = ["main", "signals"]

__getattr__ = lazy_face(
    __name__,
    {
        "main": ("main",),
    },
)
