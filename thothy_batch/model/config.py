"""What a model is made of, read from its config.json. Knows nothing of torch."""

from dataclasses import dataclass
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint import (
    CONFIG,
    SINGLE,
    read_header,
    read_json,
    read_json_if_there,
    weight_files,
)
from thothy_batch.model.config_reader import ConfigReader
from thothy_batch.model.rope_config import RopeConfig, parse_rope
from thothy_batch.model.support import (
    refuse_unsupported,
    refuse_window,
    supported_architecture,
)
from thothy_batch.records import ModelSpec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

# Below this size float32 on a CPU costs little and keeps the output independent of the batch.
_FLOAT32_LIMIT = 200_000_000
_HEADER_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One decoder-only model: every number the decoder, the pool and the planner need."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    checkpoint_dtype: str  # float32 | bfloat16 | float16 | ...
    stop_token_ids: tuple[int, ...] = ()  # of config.json and generation_config.json

    @property
    def max_model_len(self) -> int:
        """Longest context in tokens; yarn reaches beyond the trained positions by its factor."""
        if self.rope.kind != "yarn":
            return self.max_position_embeddings
        stretched = int(self.rope.original_max_positions * self.rope.factor)
        return max(self.max_position_embeddings, stretched)

    @property
    def num_body_parameters(self) -> int:
        """Parameters every computed token passes: all layers and the last norm."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        biases = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.qkv_bias
        biases += self.hidden_size * self.o_bias
        biases += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return self.num_layers * (attention + mlp + norms + biases) + self.hidden_size

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the LM head, which only tokens that sample pass."""
        return self.vocab_size * self.hidden_size


def num_parameters(config: ModelConfig) -> int:
    """All parameters; tied embeddings count once."""
    tables = 1 if config.tie_word_embeddings else 2
    return config.num_body_parameters + tables * config.num_head_parameters


def kv_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Bytes that one token's keys and values take over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * DTYPE_BYTES[dtype]


def resolve_dtype(config: ModelConfig, spec: ModelSpec, device: str) -> str:
    """The dtype to compute in, "float32" or "bfloat16".

    auto: the checkpoint's own; float32 for models under 200M parameters on a CPU, and for
    checkpoints in float16, whose range of values bfloat16 would keep but not their precision.
    """
    if spec.dtype in DTYPE_BYTES:
        return spec.dtype
    if spec.dtype != "auto":
        raise ModelError(
            f"model.dtype {spec.dtype!r} is not known", hint="one of auto, float32, bfloat16"
        )
    if device == "cpu" and num_parameters(config) < _FLOAT32_LIMIT:
        return "float32"
    return "bfloat16" if config.checkpoint_dtype == "bfloat16" else "float32"


def load_config(directory: Path) -> ModelConfig:
    """The model's configuration from config.json, in the old or the new form.

    Raises ModelError by name for what is not supported: other architectures, rope types,
    an active sliding window, quantized checkpoints, activations other than SiLU.
    """
    path = directory / CONFIG
    raw = read_json(path)
    reader = ConfigReader(raw, str(path))
    architecture = supported_architecture(reader)
    refuse_unsupported(reader)
    hidden = reader.count("hidden_size")
    num_heads = reader.count("num_attention_heads")
    max_positions = reader.count("max_position_embeddings", _MAX_POSITIONS[architecture])
    num_layers = reader.count("num_hidden_layers")
    refuse_window(reader, architecture, max_positions, num_layers)
    is_qwen2 = architecture == "Qwen2ForCausalLM"
    is_mistral = architecture == "MistralForCausalLM"
    attention_bias = reader.flag("attention_bias") and not is_mistral
    config = ModelConfig(
        architecture=architecture,
        vocab_size=reader.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=reader.count("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=reader.count("num_key_value_heads", 8 if is_mistral else num_heads),
        head_dim=reader.count(
            "head_dim", 128 if architecture == "Qwen3ForCausalLM" else hidden // num_heads
        ),
        rms_norm_eps=reader.number("rms_norm_eps", 1e-6),
        rope=parse_rope(raw, max_positions, str(path)),
        max_position_embeddings=max_positions,
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        qkv_bias=is_qwen2 or attention_bias,
        o_bias=attention_bias and not is_qwen2,
        mlp_bias=reader.flag("mlp_bias") and architecture == "LlamaForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        checkpoint_dtype=_checkpoint_dtype(raw, directory),
        stop_token_ids=stop_token_ids(directory),
    )
    _check_heads(config, str(path))
    return config


def stop_token_ids(directory: Path) -> tuple[int, ...]:
    """End-of-text ids of config.json and generation_config.json together, ascending."""
    ids: set[int] = set()
    for name in (CONFIG, "generation_config.json"):
        value = read_json_if_there(directory / name).get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        ids.update(v for v in listed if isinstance(v, int) and not isinstance(v, bool))
    return tuple(sorted(ids))


# Where config.json names no limit: the defaults under which such files were written.
_MAX_POSITIONS = {
    "LlamaForCausalLM": 2048,
    "MistralForCausalLM": 131_072,
    "Qwen2ForCausalLM": 32_768,
    "Qwen3ForCausalLM": 32_768,
}


def _checkpoint_dtype(raw: dict[str, object], directory: Path) -> str:
    """From config.json; where it names none, of the first tensor in the weights."""
    named = raw.get("dtype") or raw.get("torch_dtype")
    if isinstance(named, str):
        return named.removeprefix("torch.")
    if not (directory / SINGLE).is_file():
        return "float32"
    header = read_header(weight_files(directory)[0])
    for name, entry in header.items():
        if name != "__metadata__":
            return _HEADER_DTYPES.get(str(entry.get("dtype")), "float32")
    return "float32"


def _check_heads(config: ModelConfig, where: str) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"{where}: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key/value heads evenly"
        )
    if config.head_dim % 2:
        raise ModelError(f"{where}: head_dim {config.head_dim} is odd; rotary positions need pairs")
