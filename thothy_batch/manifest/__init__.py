"""Reads manifests into validated settings, and Parquet or SQL inputs into streams of items."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.manifest.excerpt import first_rows
    from thothy_batch.manifest.fields import ROW_SAMPLING
    from thothy_batch.manifest.items import ItemSource, open_items
    from thothy_batch.manifest.settings import (
        FileInput,
        JobRowsInput,
        JobSettings,
        Manifest,
        Overrides,
        SqlInput,
        json_schema,
        load_manifest,
        parse_deadline,
        parse_duration,
        parse_variables,
        to_engine_spec,
    )
    from thothy_batch.manifest.units import parse_memory

__all__ = [
    "ROW_SAMPLING",
    "FileInput",
    "ItemSource",
    "JobRowsInput",
    "JobSettings",
    "Manifest",
    "Overrides",
    "SqlInput",
    "first_rows",
    "json_schema",
    "load_manifest",
    "open_items",
    "parse_deadline",
    "parse_duration",
    "parse_memory",
    "parse_variables",
    "to_engine_spec",
]

__getattr__ = lazy_face(
    __name__,
    {
        "fields": ("ROW_SAMPLING",),
        "excerpt": ("first_rows",),
        "items": (
            "ItemSource",
            "open_items",
        ),
        "settings": (
            "FileInput",
            "JobRowsInput",
            "JobSettings",
            "Manifest",
            "Overrides",
            "SqlInput",
            "json_schema",
            "load_manifest",
            "parse_deadline",
            "parse_duration",
            "parse_variables",
            "to_engine_spec",
        ),
        "units": ("parse_memory",),
    },
)
