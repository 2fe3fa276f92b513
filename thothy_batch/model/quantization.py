"""Supported quantizations, and the bytes that they save.

int8: the linears of all layers and the LM head, weights and activations (see
thothy_kernels.linear_int8). The embedding table, the norms and the KV cache stay in the dtype.
"""

from thothy_batch.choices import QUANTIZATIONS
from thothy_batch.errors import ModelError
from thothy_batch.model.config.model_config import DTYPE_BYTES, ModelConfig
from thothy_batch.records import ModelSpec

# Implementations with 8-bit matrix products.
_INT8_IMPLS = ("reference", "cpu")
# Per output channel: its scale and the sum of its weights.
_CHANNEL_BYTES = 8


def check_quantization(spec: ModelSpec, *, device: str, impl: str = "auto") -> None:
    """Raise ModelError, by name, for a quantization that is unknown or unsupported here."""
    if spec.quantization not in QUANTIZATIONS:
        raise ModelError(
            f"model.quantization {spec.quantization!r} does not exist yet",
            hint=f"supported: {', '.join(QUANTIZATIONS)}",
        )
    if spec.quantization == "none":
        return
    if device != "cpu":
        raise ModelError(
            f"model.quantization {spec.quantization} is computed on the CPU alone so far, and the "
            f"engine would compute on {device}",
            hint="set model.quantization to none, or engine.device to cpu",
        )
    if impl not in ("auto", *_INT8_IMPLS):
        raise ModelError(
            f"model.quantization {spec.quantization} has no kernels of engine.impl {impl}",
            hint=f"use engine.impl auto or one of {', '.join(_INT8_IMPLS)}",
        )


def saved_bytes(config: ModelConfig, dtype: str, quantization: str) -> tuple[int, int]:
    """Return the bytes saved, of those that a decode step reads, in body and LM head."""
    if quantization == "none":
        return 0, 0
    N, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    q_size = config.num_heads * config.head_dim
    qkv_size = q_size + 2 * config.num_kv_heads * config.head_dim
    linears = ((qkv_size, N), (N, q_size), (2 * F, N), (N, F))
    body = sum(_saved(*shape, dtype) for shape in linears)
    return config.num_layers * body, _saved(V, N, dtype)


def _saved(num_outputs: int, num_inputs: int, dtype: str) -> int:
    return num_outputs * (num_inputs * (DTYPE_BYTES[dtype] - 1) - _CHANNEL_BYTES)
