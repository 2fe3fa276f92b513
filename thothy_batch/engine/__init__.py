"""Requests in, completions out: paged KV blocks, continuous batching, one step after another.

Knows nothing of manifests, kinds or the store. `protocol` says what an engine is, `start` has the
ways to start one, `model_info` describes a model without its weights. Importing this package
imports nothing else.
"""

__all__: list[str] = []
