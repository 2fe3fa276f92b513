"""Encodes and decodes text and renders chat templates. No torch."""
