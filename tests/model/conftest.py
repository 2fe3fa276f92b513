"""Checkpoints to read: tiny random ones that transformers wrote."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SLIDING, FULL = "sliding_attention", "full_attention"

TINY = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}

TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}

# family → (configuration class in transformers, settings over TINY); each stands for one way in
# which checkpoints differ.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied-bias": (
        "LlamaConfig",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-odd-heads": (
        "LlamaConfig",
        {"hidden_size": 63, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16},
    ),
    "llama-no-sharing-llama3": (
        "LlamaConfig",
        {
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "mistral-wide-window": ("MistralConfig", {"sliding_window": 1024, "num_key_value_heads": 1}),
    "mistral-window": ("MistralConfig", {"sliding_window": 16, "num_hidden_layers": 1}),
    "ministral-mixed": (
        "MinistralConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 19,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
        },
    ),
    "qwen2": ("Qwen2Config", {"num_attention_heads": 3, "num_key_value_heads": 1}),
    "qwen2-tied-yarn": (
        "Qwen2Config",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2-window-above": (
        "Qwen2Config",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "max_window_layers": 1,
            "sliding_window": 24,
        },
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "qwen3-mixed": (
        "Qwen3Config",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": [SLIDING, FULL, SLIDING],
        },
    ),
    "qwen3-tied-bias-wide-heads": (
        "Qwen3Config",
        {"head_dim": 256, "tie_word_embeddings": True, "attention_bias": True},
    ),
    # Softcaps low enough to bend what weights of this size give.
    "gemma2": (
        "Gemma2Config",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 16,
            "vocab_size": 101,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma2-2b-heads": (
        "Gemma2Config",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 40,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3-1b-heads": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 32,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3-linear-bias": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 13,
            "attention_bias": True,
            "query_pre_attn_scalar": 10,
            "final_logit_softcapping": 5.0,
            "layer_types": [SLIDING, FULL, FULL, SLIDING],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e4},
                SLIDING: {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "gemma3-with-vision": (
        "Gemma3Config",
        {
            "tie_word_embeddings": True,
            "text_config": {"head_dim": 16, "sliding_window": 20, "num_hidden_layers": 6},
            "vision_config": TINY_VISION | {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
        },
    ),
}

VARIANTS |= {
    "gemma-legacy-gelu": (
        "GemmaConfig",
        {"head_dim": 16, "hidden_act": "gelu", "tie_word_embeddings": True},
    ),
    "granite": (
        "GraniteConfig",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.0625,
            "residual_multiplier": 0.22,
            "logits_scaling": 6.0,
        },
    ),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "smollm3-window": (
        "SmolLM3Config",
        {
            "num_hidden_layers": 3,
            "no_rope_layers": [0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 17,
        },
    ),
    "phi3-window": ("Phi3Config", {"sliding_window": 21, "num_key_value_heads": 1}),
    "phi4-mini-longrope": (
        "Phi3Config",
        {
            "hidden_size": 64,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 128,
            "partial_rotary_factor": 0.75,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0],
                "long_factor": [1.0, 1.5, 2.0, 4.0, 9.0, 30.0],
            },
        },
    ),
    "llama-dynamic": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "olmo2": ("Olmo2Config", {"head_dim": 12}),
    "glm": ("GlmConfig", {"head_dim": 24}),
    "glm4-0414": (
        "Glm4Config",
        {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "seed-oss": (
        "SeedOssConfig",
        {"head_dim": 32, "attention_out_bias": True, "mlp_bias": True},
    ),
    "exaone4-mixed": ("Exaone4Config", {"num_hidden_layers": 5, "sliding_window": 14}),
    "exaone4-full": (
        "Exaone4Config",
        {"sliding_window": None, "layer_types": [FULL, FULL], "tie_word_embeddings": True},
    ),
    "mistral3-with-vision": (
        "Mistral3Config",
        {
            "tie_word_embeddings": False,
            "text_config": {"model_type": "mistral", "head_dim": 16, "sliding_window": None},
            "vision_config": TINY_VISION | {"model_type": "pixtral", "head_dim": 8},
        },
    ),
    "llava-of-qwen2": (
        "LlavaConfig",
        {
            "text_config": {"model_type": "qwen2"},
            "vision_config": TINY_VISION | {"model_type": "clip_vision_model"},
        },
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of this size gain nothing from threads, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """Each of the variants in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def make_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny random model of a variant; returns its directory and transformers' model."""
    import transformers

    made: dict[str, tuple[Path, Any]] = {}

    def make(variant: str) -> tuple[Path, Any]:
        if variant not in made:
            class_name, settings = VARIANTS[variant]
            config = getattr(transformers, class_name)(**_over_tiny(settings))
            torch.manual_seed(1)
            auto = transformers.AutoModelForCausalLM
            if "vision_config" in settings:
                auto = transformers.AutoModelForImageTextToText
            model = auto.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():  # biases are zero and norms one otherwise
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            directory = tmp_path_factory.mktemp(variant)
            model.save_pretrained(directory)
            made[variant] = directory, model
        return made[variant]

    return make


def _over_tiny(settings: dict[str, Any]) -> dict[str, Any]:
    if "text_config" not in settings:
        return TINY | settings
    text = TINY | {"tie_word_embeddings": True} | settings["text_config"]
    return settings | {"text_config": text}


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change keys of a JSON file in place; a value of None removes the key."""

    def edit(path: Path, **changes: object) -> None:
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content[key] = value
            if value is None:
                del content[key]
        path.write_text(json.dumps(content))

    return edit


# Blocks of a sequence, for each layer group.
