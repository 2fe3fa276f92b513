"""Sequences, configuration, KV layout and limits, shared by every wing of the engine. No torch."""

from thothy_batch.engine.core.config import EngineConfig, ops_impl, resolve_impl, resolve_spec
from thothy_batch.engine.core.limits import Limits, blocks_needed, why_unfit
from thothy_batch.engine.core.rope_choice import rope_kinds

__all__ = [
    "EngineConfig",
    "Limits",
    "blocks_needed",
    "ops_impl",
    "resolve_impl",
    "resolve_spec",
    "rope_kinds",
    "why_unfit",
]
