"""The DuckDB file: schema, migrations, views, and the merge of journal segments."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.store.database.database import wal_path

__all__ = ["wal_path"]

__getattr__ = lazy_face(
    __name__,
    {
        "database": ("wal_path",),
    },
)
