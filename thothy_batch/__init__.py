"""Offline LLM batch runner: manifests in, finished artifacts and statistics in DuckDB."""

__version__ = "0.1.0"
