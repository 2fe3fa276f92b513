"""Sequences, configuration, KV layout and limits, shared by every wing of the engine. No torch."""
