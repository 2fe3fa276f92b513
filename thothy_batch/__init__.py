"""Offline LLM batch runner: manifests in, finished artifacts and statistics in DuckDB."""

__version__ = "0.2.0"

__all__ = ["__version__"]
