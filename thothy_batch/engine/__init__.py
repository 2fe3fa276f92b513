"""Requests in, completions out: paged KV blocks, continuous batching, one step after another.

Knows nothing of manifests, kinds or the store. The way in is `client` (start an engine, submit,
poll) and `facts` (what is known of a model without loading its weights). Importing this package
imports no torch.
"""

from thothy_batch.engine.model_info import ModelInfo, model_info, tokenizer_for
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_child, start_in_process

__all__ = [
    "EngineClient",
    "ModelInfo",
    "model_info",
    "start_child",
    "start_in_process",
    "tokenizer_for",
]
