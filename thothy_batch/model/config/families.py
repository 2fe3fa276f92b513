"""The supported families, and the multimodal models around them."""

from dataclasses import replace

from thothy_batch.model.config.family import AFTER, AROUND, AROUND_GLM4, Family, Wrapper

_LLAMA = Family(
    "Llama",
    "llama",
    {"max_position_embeddings": 2048},
    qkv_bias_key="attention_bias",
    o_bias_key="attention_bias",
    mlp_bias_key="mlp_bias",
)
_MISTRAL = Family(
    "Mistral",
    "mistral",
    {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
    sliding="always",
)
_QWEN_DEFAULTS: dict[str, object] = {
    "max_position_embeddings": 32_768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
# Positions in a text are the same on all axes of a multimodal rope: then it is a plain one.
_MROPE = {"mrope": "default"}
_QWEN2 = Family(
    "Qwen2 and 2.5",
    "qwen2",
    _QWEN_DEFAULTS,
    sliding="upper",
    has_qkv_bias=True,
    rope_aliases=_MROPE,
)
_QWEN3 = Family(
    "Qwen3",
    "qwen3",
    _QWEN_DEFAULTS | {"head_dim": 128},
    sliding="upper",
    qkv_bias_key="attention_bias",
    o_bias_key="attention_bias",
    qk_norm="head",
    rope_aliases=_MROPE,
)
_GEMMA = Family(
    "Gemma",
    "gemma",
    {
        "vocab_size": 256_000,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    qkv_bias_key="attention_bias",
    o_bias_key="attention_bias",
    is_gemma=True,
)
_GEMMA_DEFAULTS: dict[str, object] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA2 = replace(
    _GEMMA,
    label="Gemma 2",
    model_type="gemma2",
    defaults=_GEMMA_DEFAULTS
    | {
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
        "sliding_window_pattern": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    sliding="pattern",
    norms=AROUND,
    reads_softcaps=True,
    activation_key="hidden_activation",
)
_GEMMA3 = replace(
    _GEMMA2,
    label="Gemma 3",
    model_type="gemma3_text",
    defaults=_GEMMA_DEFAULTS
    | {
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    qk_norm="head",
    ropes_by_layer_type=True,
)
_GRANITE = replace(_LLAMA, label="Granite 3", model_type="granite", reads_multipliers=True)
_SMOLLM3 = replace(
    _LLAMA,
    label="SmolLM3",
    model_type="smollm3",
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "rope_theta": 2e6,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
    sliding="unrotated",
    unrotated="listed",
)
_PHI3 = Family(
    "Phi-3 and 4",
    "phi3",
    {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    sliding="always",
    merged=("qkv", "gate_up"),
    is_partly_rotated=True,
    rope_aliases={"su": "longrope", "yarn": "longrope"},
)
_OLMO2 = Family(
    "OLMo 2",
    "olmo2",
    {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    qkv_bias_key="attention_bias",
    o_bias_key="attention_bias",
    qk_norm="all",
    norms=AFTER,
)
_GLM = Family(
    "GLM-4 (2024)",
    "glm",
    {
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1.5625e-7,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
    },
    qkv_bias_key="attention_bias",
    merged=("gate_up",),
    is_partly_rotated=True,
    rotates_pairs=True,
)
_GLM4 = replace(_GLM, label="GLM-4 (0414)", model_type="glm4", norms=AROUND_GLM4)
_SEED_OSS = Family(
    "Seed-OSS",
    "seed_oss",
    {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524_288,
        "attention_bias": True,
    },
    qkv_bias_key="attention_bias",
    o_bias_key="attention_out_bias",
    mlp_bias_key="mlp_bias",
)
_EXAONE4 = Family(
    "EXAONE 4",
    "exaone4",
    {
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    sliding="pattern",
    unrotated="full",
    qk_norm="head",
    norms=AFTER,
)

FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _MISTRAL,
    "MinistralForCausalLM": replace(_MISTRAL, label="Ministral", model_type="ministral"),
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "GraniteForCausalLM": _GRANITE,
    "SmolLM3ForCausalLM": _SMOLLM3,
    "Phi3ForCausalLM": _PHI3,
    "Olmo2ForCausalLM": _OLMO2,
    "GlmForCausalLM": _GLM,
    "Glm4ForCausalLM": _GLM4,
    "SeedOssForCausalLM": _SEED_OSS,
    "Exaone4ForCausalLM": _EXAONE4,
}
# Sizes of Llama 1 and 2, and of Mistral, at 7B: some text_config name only what differs from them.
_SIZES_7B: dict[str, object] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_LLAVA = Wrapper(
    "LLaVA", {name: name for name in ("llama", "mistral", "qwen2", "qwen3")}, _SIZES_7B
)
WRAPPERS = {
    "Gemma3ForConditionalGeneration": Wrapper("Gemma 3", {"gemma3_text": "gemma3_text"}),
    "Mistral3ForConditionalGeneration": Wrapper("Mistral Small 3.1", {"mistral": "mistral"}),
    "LlavaForConditionalGeneration": _LLAVA,
    "LlavaNextForConditionalGeneration": replace(_LLAVA, label="LLaVA-NeXT"),
    "Qwen2VLForConditionalGeneration": Wrapper(
        "Qwen2-VL", {"qwen2_vl_text": "qwen2", "qwen2_vl": "qwen2"}, may_be_flat=True
    ),
    "Qwen2_5_VLForConditionalGeneration": Wrapper(
        "Qwen2.5-VL", {"qwen2_5_vl_text": "qwen2", "qwen2_5_vl": "qwen2"}, may_be_flat=True
    ),
    "Qwen3VLForConditionalGeneration": Wrapper("Qwen3-VL", {"qwen3_vl_text": "qwen3"}),
}


def family_of(architecture: str, text_type: str = "") -> Family:
    """Return the family of a supported architecture; `text_type`: of a wrapper's text model."""
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    wanted = text_type or next(iter(WRAPPERS[architecture].text_types.values()))
    return next(family for family in FAMILIES.values() if family.model_type == wanted)
