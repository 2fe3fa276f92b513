"""Durable results: a journal that is authoritative until DuckDB has its rows, and all queries.

Knows nothing of models, prompts or scheduling. `Store` writes, `queries` reads; the lock and the
status file need no DuckDB.
"""
