"""Turns manifest items into jobs, entries and rendered prompts."""

__all__: list[str] = []
