"""Reads config.json into a ModelConfig and refuses unsupported models by name. No torch."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.model.config.model_config import (
        DTYPE_BYTES,
        ModelConfig,
        group_kv_bytes_per_token,
        kv_bytes_per_token,
        layer_groups,
        load_config,
        num_parameters,
        resolve_dtype,
    )
    from thothy_batch.model.config.supported_model import locate_supported

__all__ = [
    "DTYPE_BYTES",
    "ModelConfig",
    "group_kv_bytes_per_token",
    "kv_bytes_per_token",
    "layer_groups",
    "load_config",
    "locate_supported",
    "num_parameters",
    "resolve_dtype",
]

__getattr__ = lazy_face(
    __name__,
    {
        "model_config": (
            "DTYPE_BYTES",
            "ModelConfig",
            "group_kv_bytes_per_token",
            "kv_bytes_per_token",
            "layer_groups",
            "load_config",
            "num_parameters",
            "resolve_dtype",
        ),
        "supported_model": ("locate_supported",),
    },
)
