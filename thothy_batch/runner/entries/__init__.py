"""Turns manifest items into jobs, entries and rendered prompts."""
