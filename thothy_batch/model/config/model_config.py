"""The configuration of a model, read from its config.json. No torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import (
    CONFIG,
    checkpoint_dtype,
    read_json,
    read_json_if_there,
)
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.families import FAMILIES, Family
from thothy_batch.model.config.rope_config import RopeConfig, parse_rope, parse_ropes_by_layer_type
from thothy_batch.model.config.support import (
    refuse_unsupported,
    supported_activation,
    supported_architecture,
)
from thothy_batch.model.config.windows import sliding_layers, window_size
from thothy_batch.records import LayerGroup, ModelSpec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

# Below this size float32 on a CPU costs little and makes outputs independent of the batch.
_FLOAT32_LIMIT = 200_000_000


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of a decoder-only model that the decoder, the pool and the planner need."""

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
    query_scalar: int  # scores are divided by its square root
    layer_windows: tuple[int | None, ...]  # tokens visible to a query, by layer; None: all
    sliding_rope: RopeConfig | None = None  # for the layers in `sliding_rope_layers`
    sliding_rope_layers: tuple[int, ...] = ()
    activation: str = "silu"  # silu | gelu_tanh
    sandwich_norms: bool = False  # also after attention and feed-forward
    norm_offset: float = 0.0  # added to norm weights
    embedding_scale: float = 1.0
    attention_softcap: float = 0.0  # of attention scores, by tanh; 0: none
    logit_softcap: float = 0.0
    stop_token_ids: tuple[int, ...] = ()  # from config.json and generation_config.json

    @property
    def max_model_len(self) -> int:
        """Longest context in tokens; yarn extends the trained positions by its factor."""
        return _max_model_len(self.rope, self.max_position_embeddings)

    @property
    def layer_ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary settings of each layer."""
        sliding = self.sliding_rope or self.rope
        of = set(self.sliding_rope_layers)
        return tuple(sliding if layer in of else self.rope for layer in range(self.num_layers))

    @property
    def num_body_parameters(self) -> int:
        """Count the parameters that every computed token uses: all layers and the last norm."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = (4 if self.sandwich_norms else 2) * self.hidden_size
        norms += 2 * self.head_dim * self.qk_norm
        biases = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.qkv_bias
        biases += self.hidden_size * self.o_bias
        biases += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return self.num_layers * (attention + mlp + norms + biases) + self.hidden_size

    @property
    def num_head_parameters(self) -> int:
        """Count the parameters of the LM head, which only sampling tokens use."""
        return self.vocab_size * self.hidden_size


def num_parameters(config: ModelConfig) -> int:
    """Count all parameters; tied embeddings count once."""
    tables = 1 if config.tie_word_embeddings else 2
    return config.num_body_parameters + tables * config.num_head_parameters


def kv_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Return the bytes of one token's keys and values over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * DTYPE_BYTES[dtype]


def layer_groups(config: ModelConfig) -> tuple[LayerGroup, ...]:
    """Group layers that keep the same tokens: full attention first, then by window, ascending."""
    windows: dict[int | None, list[int]] = {}
    for layer, window in enumerate(config.layer_windows):
        windows.setdefault(window, []).append(layer)
    ordered = sorted(windows, key=lambda window: -1 if window is None else window)
    return tuple(LayerGroup(tuple(windows[window]), window) for window in ordered)


def group_kv_bytes_per_token(config: ModelConfig, dtype: str) -> tuple[int, ...]:
    """Return the bytes of one token's keys and values, by layer group."""
    of_layer = kv_bytes_per_token(config, dtype) // config.num_layers
    return tuple(len(group.layers) * of_layer for group in layer_groups(config))


def resolve_dtype(config: ModelConfig, spec: ModelSpec, device: str) -> str:
    """Return the dtype to compute in, "float32" or "bfloat16".

    auto: the checkpoint's own; float32 for models under 200M parameters on a CPU, and for float16
    checkpoints, whose range bfloat16 would keep but not their precision.
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
    """Load the configuration from config.json, in the old or the new form.

    Raises ModelError by name for what is not supported: other architectures, rope and layer
    types, quantized checkpoints, activations other than SiLU and GELU (tanh).
    """
    path = directory / CONFIG
    top = ConfigReader(read_json(path), str(path))
    architecture = supported_architecture(top)
    family = FAMILIES[architecture]
    reader = _with_defaults(top, family)
    refuse_unsupported(reader, family)
    hidden = reader.count("hidden_size")
    num_heads = reader.count("num_attention_heads")
    num_layers = reader.count("num_hidden_layers")
    head_dim = reader.count("head_dim", hidden // num_heads)
    max_positions = reader.count("max_position_embeddings")
    rope, sliding_rope = _ropes(reader, family, max_positions)
    sliding = sliding_layers(reader, family, num_layers)
    window = window_size(reader, family, _max_model_len(rope, max_positions))
    attention_bias = family.reads_attention_bias and reader.flag("attention_bias")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=reader.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=reader.count("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=reader.count("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rms_norm_eps=reader.number("rms_norm_eps", 1e-6),
        rope=rope,
        max_position_embeddings=max_positions,
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        qkv_bias=family.has_qkv_bias or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family.reads_mlp_bias and reader.flag("mlp_bias"),
        qk_norm=family.qk_norm,
        checkpoint_dtype=checkpoint_dtype(reader.raw, directory),
        query_scalar=head_dim,
        layer_windows=tuple(window if slides else None for slides in sliding),
        sliding_rope=sliding_rope,
        sliding_rope_layers=tuple(i for i, slides in enumerate(sliding) if sliding_rope and slides),
        activation=supported_activation(reader, family),
        stop_token_ids=stop_token_ids(directory),
    )
    _check_heads(config, str(path))
    return _as_gemma(config, reader) if family.is_gemma else config


def stop_token_ids(directory: Path) -> tuple[int, ...]:
    """Return the end-of-text ids of config.json and generation_config.json, ascending."""
    ids: set[int] = set()
    for name in (CONFIG, "generation_config.json"):
        raw = read_json_if_there(directory / name)
        text = raw.get("text_config")  # of multimodal models
        for section in (raw, text if isinstance(text, dict) else {}):
            value = section.get("eos_token_id")
            listed = value if isinstance(value, list) else [] if value is None else [value]
            numbers = [v for v in listed if isinstance(v, int) and not isinstance(v, bool)]
            if len(numbers) < len(listed):
                raise ModelError(
                    f"{directory / name}: eos_token_id is {value!r}, not a token id or a list",
                    hint="correct it, or fetch the file again",
                )
            ids.update(numbers)
    return tuple(sorted(ids))


def _with_defaults(top: ConfigReader, family: Family) -> ConfigReader:
    """Return the text model's settings, with the family's defaults for missing keys."""
    raw = family.defaults | top.raw
    if family.is_multimodal:
        text = top.raw.get("text_config")
        if not isinstance(text, dict):
            raise ModelError(f"{top.where}: text_config is missing: the text model's settings")
        raw |= text
    return ConfigReader(raw, top.where)


def _as_gemma(config: ModelConfig, reader: ConfigReader) -> ModelConfig:
    return replace(
        config,
        query_scalar=reader.count("query_pre_attn_scalar"),
        sandwich_norms=True,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        attention_softcap=reader.number("attn_logit_softcapping", 0.0),
        logit_softcap=reader.number("final_logit_softcapping", 0.0),
    )


def _ropes(
    reader: ConfigReader, family: Family, max_positions: int
) -> tuple[RopeConfig, RopeConfig | None]:
    if family.ropes_by_layer_type:
        return parse_ropes_by_layer_type(reader.raw, max_positions, reader.where)
    return parse_rope(reader.raw, max_positions, reader.where), None


def _max_model_len(rope: RopeConfig, max_positions: int) -> int:
    if rope.kind != "yarn":
        return max_positions
    return max(max_positions, int(rope.original_max_positions * rope.factor))


def _check_heads(config: ModelConfig, where: str) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"{where}: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key/value heads evenly"
        )
    if config.head_dim % 2:
        raise ModelError(f"{where}: head_dim {config.head_dim} is odd; rotary positions need pairs")
