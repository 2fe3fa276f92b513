"""Runs an engine in a child process and restarts it when it dies."""

__all__: list[str] = []
