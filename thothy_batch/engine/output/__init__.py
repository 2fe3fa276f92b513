"""Turns sampled tokens into completions: stop rules, repetition, statistics."""

__all__: list[str] = []
