"""Durable results: a journal that is the truth until DuckDB has it, and everything read from it.

Knows nothing of models, prompts or scheduling. `store.Store` writes, `read` and `export` read,
`lock` and `status` need no DuckDB at all.
"""
