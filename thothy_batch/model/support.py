"""What is supported, and the refusals by name of what is not."""

from thothy_batch.errors import ModelError
from thothy_batch.model.config_reader import ConfigReader
from thothy_batch.records import ModelSpec

SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
SUPPORTED_QUANTIZATIONS = ("none",)


def check_quantization(spec: ModelSpec) -> None:
    """ModelError for a quantization that does not exist yet, by name."""
    if spec.quantization not in SUPPORTED_QUANTIZATIONS:
        raise ModelError(
            f"model.quantization {spec.quantization!r} does not exist yet",
            hint=f"supported: {', '.join(SUPPORTED_QUANTIZATIONS)}",
        )


def supported_architecture(reader: ConfigReader) -> str:
    """The first of `architectures`, when it is supported; else ModelError with the list."""
    names = reader.raw.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    if first in SUPPORTED_ARCHITECTURES:
        return first
    shown = first or f"model_type {reader.raw.get('model_type')!r}"
    raise ModelError(
        f"{reader.where}: architecture {shown} is not supported",
        hint=f"supported: {', '.join(SUPPORTED_ARCHITECTURES)}",
    )


def refuse_unsupported(reader: ConfigReader) -> None:
    """ModelError for a quantized checkpoint and for other activations than SiLU."""
    quantization = reader.raw.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{reader.where}: the checkpoint is quantized ({method or 'unknown method'}), "
            "which is not supported",
            hint="use the unquantized checkpoint of the same model",
        )
    activation = reader.raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"{reader.where}: hidden_act {activation!r} is not supported, only silu")


def refuse_window(
    reader: ConfigReader, architecture: str, max_positions: int, num_layers: int
) -> None:
    """ModelError where some layer would see fewer positions than the context has."""
    raw = reader.raw
    if architecture == "LlamaForCausalLM":
        return
    window = raw.get("sliding_window", 4096)  # an absent key means 4096 in these families
    if architecture != "MistralForCausalLM":
        if not reader.flag("use_sliding_window"):
            return
        layer_types = raw.get("layer_types")
        if isinstance(layer_types, list):
            first_windowed = 0 if "sliding_attention" in layer_types else num_layers
        else:
            first_windowed = int(reader.number("max_window_layers", 28))
        if first_windowed >= num_layers:
            return
    if isinstance(window, int) and window < max_positions:
        raise ModelError(
            f"{reader.where}: sliding window attention (sliding_window {window}, context "
            f"{max_positions}) is not supported",
            hint="use a checkpoint with full attention (sliding_window: null)",
        )
