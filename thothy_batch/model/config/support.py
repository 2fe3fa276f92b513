"""What is supported, and the refusals by name of what is not."""

from thothy_batch.errors import ModelError
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.families import FAMILIES, Family

SUPPORTED_ARCHITECTURES = tuple(FAMILIES)

# Activations by the names that configurations give them, and by those of the kernel.
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def supported_architecture(reader: ConfigReader) -> str:
    """The first of `architectures`, when it is supported; else ModelError with the list."""
    names = reader.raw.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    if first in FAMILIES:
        return first
    shown = first or f"model_type {reader.raw.get('model_type')!r}"
    raise ModelError(
        f"{reader.where}: architecture {shown} is not supported",
        hint=f"supported: {', '.join(SUPPORTED_ARCHITECTURES)}",
    )


def refuse_unsupported(reader: ConfigReader, family: Family) -> None:
    """ModelError for a quantized checkpoint, and for settings that change what is computed."""
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
    # transformers does not read it for Gemma 3, others do: no two would give the same text.
    if family.ropes_by_layer_type and reader.raw.get("attn_logit_softcapping") is not None:
        raise ModelError(f"{reader.where}: attn_logit_softcapping of Gemma 3 is not supported")


def supported_activation(reader: ConfigReader, family: Family) -> str:
    """The activation's name in the kernel; ModelError for others than SiLU and GELU (tanh)."""
    key = "hidden_activation" if family.is_gemma else "hidden_act"
    activation = str(reader.raw.get(key, "silu"))
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"{reader.where}: {key} {activation!r} is not supported",
            hint=f"supported: {', '.join(_ACTIVATIONS)}",
        )
    return _ACTIVATIONS[activation]
