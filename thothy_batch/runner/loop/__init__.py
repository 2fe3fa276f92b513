"""Feeds the engine, writes its results to the store, and finishes the run."""

__all__: list[str] = []
