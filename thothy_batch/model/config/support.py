"""Refuses unsupported settings and activations by name."""

from thothy_batch.errors import ModelError
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.family import Family

# Activations: name in config.json → name in the kernel.
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def refuse_unsupported(reader: ConfigReader, family: Family) -> None:
    """Raise ModelError for quantized checkpoints and for settings that change the computation."""
    quantization = reader.raw.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{reader.where}: the checkpoint is quantized ({method or 'unknown method'}), "
            "which is not supported",
            hint="use the unquantized checkpoint of the same model",
        )
    if family.is_gemma and reader.flag("use_bidirectional_attention"):
        raise ModelError(
            f"{reader.where}: use_bidirectional_attention is not supported: such a model embeds "
            "texts and does not continue them"
        )
    # transformers ignores it for Gemma 3 and other engines do not, so texts would differ.
    if family.ropes_by_layer_type and reader.raw.get("attn_logit_softcapping") is not None:
        raise ModelError(f"{reader.where}: attn_logit_softcapping of Gemma 3 is not supported")


def supported_activation(reader: ConfigReader, family: Family) -> str:
    """Return the kernel's name of an activation. Raises ModelError but for SiLU, GELU (tanh)."""
    key = family.activation_key
    activation = str(reader.raw.get(key, "silu"))
    if activation == "gelu" and family.model_type == "gemma":
        activation = "gelu_pytorch_tanh"  # as its first files call it
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"{reader.where}: {key} {activation!r} is not supported",
            hint=f"supported: {', '.join(_ACTIVATIONS)}",
        )
    return _ACTIVATIONS[activation]
