"""The schema's history: numbered, append-only. A released migration is never edited."""

from collections.abc import Callable

import duckdb

from thothy_batch.store.database.migrations import (
    m0001_tables,
    m0002_predictions,
    m0003_engine_events,
    m0004_reasoning,
    m0005_run_verdicts,
)

__all__ = ["MIGRATIONS", "Migration"]

Migration = Callable[[duckdb.DuckDBPyConnection], None]

MIGRATIONS: tuple[Migration, ...] = (
    m0001_tables.apply,
    m0002_predictions.apply,
    m0003_engine_events.apply,
    m0004_reasoning.apply,
    m0005_run_verdicts.apply,
)
