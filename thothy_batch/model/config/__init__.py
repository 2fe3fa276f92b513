"""Reads config.json into a ModelConfig and refuses unsupported models by name. No torch."""
