"""Checkpoints: configuration, weights, tokenizer, and one decoder for all supported families."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.model.decoder import Decoder
    from thothy_batch.model.fingerprint import check_fingerprint, model_fingerprint
    from thothy_batch.model.host_memory import keep_freed_memory
    from thothy_batch.model.inputs import ForwardInputs, GroupInputs
    from thothy_batch.model.kv_pool import KVPool
    from thothy_batch.model.loading import LoadedModel, load_decoder
    from thothy_batch.model.quantization import check_quantization, saved_bytes

__all__ = [
    "Decoder",
    "ForwardInputs",
    "GroupInputs",
    "KVPool",
    "LoadedModel",
    "check_fingerprint",
    "check_quantization",
    "keep_freed_memory",
    "load_decoder",
    "model_fingerprint",
    "saved_bytes",
]

__getattr__ = lazy_face(
    __name__,
    {
        "decoder": ("Decoder",),
        "fingerprint": (
            "check_fingerprint",
            "model_fingerprint",
        ),
        "host_memory": ("keep_freed_memory",),
        "inputs": (
            "ForwardInputs",
            "GroupInputs",
        ),
        "kv_pool": ("KVPool",),
        "loading": (
            "LoadedModel",
            "load_decoder",
        ),
        "quantization": (
            "check_quantization",
            "saved_bytes",
        ),
    },
)
