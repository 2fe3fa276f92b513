"""Turns sampled tokens into completions: stop rules, repetition, statistics."""
