"""The supported families: defaults that config.json omits, and differences of their decoders."""

from dataclasses import dataclass, field, replace
from typing import Literal

# Sliding layers if config.json lists no layer_types: none; all; those from max_window_layers on, if
# use_sliding_window is set; all but every sliding_window_pattern-th.
Sliding = Literal["never", "always", "upper", "pattern"]


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. `defaults` apply to keys that its config.json omits."""

    defaults: dict[str, object] = field(default_factory=dict)
    sliding: Sliding = "never"
    has_qkv_bias: bool = False  # always
    reads_attention_bias: bool = False  # of q, k, v and o
    reads_mlp_bias: bool = False
    qk_norm: bool = False
    # Norms before and after attention and feed-forward, their weights stored minus 1; embeddings
    # scaled by the square root of their size; soft caps on scores and logits.
    is_gemma: bool = False
    ropes_by_layer_type: bool = False
    is_multimodal: bool = False  # the text model is a section of config.json


_MISTRAL = Family(
    {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
    sliding="always",
)
_QWEN_DEFAULTS: dict[str, object] = {
    "max_position_embeddings": 32_768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_GEMMA_DEFAULTS: dict[str, object] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA2 = Family(
    _GEMMA_DEFAULTS
    | {
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
        "sliding_window_pattern": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    sliding="pattern",
    reads_attention_bias=True,
    is_gemma=True,
)
_GEMMA3 = replace(
    _GEMMA2,
    defaults=_GEMMA_DEFAULTS
    | {
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    qk_norm=True,
    ropes_by_layer_type=True,
)

FAMILIES = {
    "LlamaForCausalLM": Family(
        {"max_position_embeddings": 2048}, reads_attention_bias=True, reads_mlp_bias=True
    ),
    "MistralForCausalLM": _MISTRAL,
    "MinistralForCausalLM": _MISTRAL,
    "Qwen2ForCausalLM": Family(_QWEN_DEFAULTS, sliding="upper", has_qkv_bias=True),
    "Qwen3ForCausalLM": Family(
        _QWEN_DEFAULTS | {"head_dim": 128},
        sliding="upper",
        reads_attention_bias=True,
        qk_norm=True,
    ),
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, is_multimodal=True),
}
