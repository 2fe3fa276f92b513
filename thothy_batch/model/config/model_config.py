"""The configuration of a model, read from its config.json. No torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import (
    CONFIG,
    checkpoint_dtype,
    read_json,
)
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.families import family_of
from thothy_batch.model.config.family import Family
from thothy_batch.model.config.hashed_settings import later
from thothy_batch.model.config.rope_config import (
    NO_ROPE,
    RopeConfig,
    parse_rope,
    parse_ropes_by_layer_type,
)
from thothy_batch.model.config.stop_tokens import stop_token_ids
from thothy_batch.model.config.support import refuse_unsupported, supported_activation
from thothy_batch.model.config.text_model import supported_architecture, text_model
from thothy_batch.model.config.windows import sliding_layers, unrotated_layers, window_size
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
    text_type: str = later("")  # model_type of a wrapper's text model, if not the usual one
    pre_norms: bool = later(True)  # before attention and feed-forward; else only after them
    qk_norm_over_heads: bool = later(False)  # of all heads together; `qk_norm`: of each
    unrotated_layers: tuple[int, ...] = later(())
    rotates_pairs: bool = later(False)  # in the checkpoint: see `rotary_layout`
    score_scale: float = later(0.0)  # of scores; 0: as `query_scalar` says
    residual_scale: float = later(1.0)  # of what attention and feed-forward add
    logit_divisor: float = later(1.0)

    @property
    def family(self) -> Family:
        """The family of the text model."""
        return family_of(self.architecture, self.text_type)

    @property
    def max_model_len(self) -> int:
        """Longest context in tokens; yarn extends the trained positions by its factor."""
        return _max_model_len(self.rope, self.max_position_embeddings)

    @property
    def rotary_dim(self) -> int:
        """Number of a head's elements that are rotated."""
        return int(self.head_dim * self.rope.rotated_share)

    @property
    def attention_scale(self) -> float:
        """Factor of attention scores."""
        return self.score_scale or float(self.query_scalar**-0.5)

    @property
    def short_rope_len(self) -> int | None:
        """Longest context that longrope's short factors hold for; None: one set holds for all."""
        length = self.rope.original_max_positions
        return length if self.rope.kind == "longrope" and length < self.max_model_len else None

    @property
    def layer_ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary settings of each layer."""
        ropes = [self.rope] * self.num_layers
        for layer in self.sliding_rope_layers:
            ropes[layer] = self.sliding_rope or self.rope
        for layer in self.unrotated_layers:
            ropes[layer] = NO_ROPE
        return tuple(ropes)

    @property
    def num_body_parameters(self) -> int:
        """Count the parameters that every computed token uses: all layers and the last norm."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = (4 if self.sandwich_norms else 2) * self.hidden_size
        norms += 2 * self.head_dim * self.qk_norm
        norms += (self.num_heads + self.num_kv_heads) * self.head_dim * self.qk_norm_over_heads
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
    family, reader = text_model(top, architecture)
    refuse_unsupported(reader, family)
    hidden = reader.count("hidden_size")
    num_heads = reader.count("num_attention_heads")
    num_layers = reader.count("num_hidden_layers")
    head_dim = reader.count("head_dim", hidden // num_heads)
    max_positions = reader.count("max_position_embeddings")
    rope, sliding_rope = _ropes(reader, family, max_positions)
    sliding = sliding_layers(reader, family, num_layers)
    window = window_size(reader, family, _max_model_len(rope, max_positions))
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
        qkv_bias=family.has_qkv_bias or _has(family.qkv_bias_key, reader),
        o_bias=_has(family.o_bias_key, reader),
        mlp_bias=_has(family.mlp_bias_key, reader),
        qk_norm=family.qk_norm == "head",
        checkpoint_dtype=checkpoint_dtype(reader.raw, directory),
        query_scalar=head_dim,
        layer_windows=tuple(window if slides else None for slides in sliding),
        sliding_rope=sliding_rope,
        sliding_rope_layers=tuple(i for i, slides in enumerate(sliding) if sliding_rope and slides),
        activation=supported_activation(reader, family),
        sandwich_norms=len(family.norms) == 4,
        stop_token_ids=stop_token_ids(directory),
        text_type="" if family is family_of(architecture) else family.model_type,
        pre_norms="input_norm" in family.norms,
        qk_norm_over_heads=family.qk_norm == "all",
        unrotated_layers=unrotated_layers(reader, family, sliding),
        rotates_pairs=family.rotates_pairs,
    )
    _check_heads(config, str(path))
    return _with_scales(config, reader, family)


def _has(bias_key: str | None, reader: ConfigReader) -> bool:
    return bias_key is not None and reader.flag(bias_key)


def _with_scales(config: ModelConfig, reader: ConfigReader, family: Family) -> ModelConfig:
    """Add the family's factors and soft caps."""
    if family.is_gemma:
        config = replace(config, norm_offset=1.0, embedding_scale=config.hidden_size**0.5)
    if family.reads_softcaps:
        config = replace(
            config,
            query_scalar=reader.count("query_pre_attn_scalar"),
            attention_softcap=reader.number("attn_logit_softcapping", 0.0),
            logit_softcap=reader.number("final_logit_softcapping", 0.0),
        )
    if family.reads_multipliers:
        config = replace(
            config,
            embedding_scale=reader.number("embedding_multiplier", 1.0),
            score_scale=reader.number("attention_multiplier", 1.0),
            residual_scale=reader.number("residual_multiplier", 1.0),
            logit_divisor=reader.number("logits_scaling", 1.0),
        )
    return config


def _ropes(
    reader: ConfigReader, family: Family, max_positions: int
) -> tuple[RopeConfig, RopeConfig | None]:
    if family.ropes_by_layer_type:
        return parse_ropes_by_layer_type(reader.raw, max_positions, reader.where)
    return parse_rope(reader.raw, max_positions, reader.where, family), None


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
    if config.rotary_dim % 2 or not config.rotary_dim:
        raise ModelError(
            f"{where}: partial_rotary_factor {config.rope.rotated_share} rotates "
            f"{config.rotary_dim} of {config.head_dim} elements; rotary positions need pairs"
        )
    half = config.rotary_dim // 2
    factors = {"short_factor": config.rope.short_factors, "long_factor": config.rope.long_factors}
    for name, numbers in factors.items():
        if numbers and len(numbers) != half:
            raise ModelError(f"{where}: {name} has {len(numbers)} numbers for {half} frequencies")
