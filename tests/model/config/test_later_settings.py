"""Settings of the families that came later: scales, layers without rope, ropes, and refusals."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hub_configs import (
    BY_NAME,
    EXAONE4_32B,
    FINGERPRINTS,
    GLM4,
    GRANITE,
    LLAVA_15,
    MISTRAL3_24B,
    OLMO2,
    PHI4_MINI,
    SMOLLM3,
)

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.model_config import ModelConfig, load_config
from thothy_batch.model.fingerprint import model_fingerprint
from thothy_batch.records import ModelSpec


def _load(folder: Path, raw: dict[str, Any], **changes: object) -> ModelConfig:
    kept = {key: value for key, value in (raw | changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))
    return load_config(folder)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_settings_that_came_later_change_no_fingerprint(name: str, tmp_path: Path) -> None:
    """A store's results stay those of its model."""
    config, spec = _load(tmp_path, BY_NAME[name]), ModelSpec(random_weights=True)
    files = ModelFiles(tmp_path, None, "x")
    assert model_fingerprint(files, config, "bfloat16", spec) == FINGERPRINTS[name]


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        (GRANITE, {"residual_multiplier": 0.25}),
        (GRANITE, {"attention_multiplier": 0.02}),
        (GRANITE, {"embedding_multiplier": 11.0}),
        (GRANITE, {"logits_scaling": 7.0}),
        (SMOLLM3, {"no_rope_layer_interval": 6}),
        (PHI4_MINI, {"rope_scaling": PHI4_MINI["rope_scaling"] | {"short_factor": [2.0] * 48}}),
        (PHI4_MINI, {"rope_scaling": PHI4_MINI["rope_scaling"] | {"attention_factor": 2.0}}),
        (GLM4, {"partial_rotary_factor": 1.0}),
        (GLM4, {"architectures": ["GlmForCausalLM"]}),
        (OLMO2, {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5}),
        (LLAVA_15, {"text_config": LLAVA_15["text_config"] | {"model_type": "qwen2"}}),
    ],
)
def test_settings_that_came_later_count_in_fingerprints(
    raw: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    found = set()
    for settings in (raw, raw | changes):
        config, spec = _load(tmp_path, settings), ModelSpec(random_weights=True)
        found.add(model_fingerprint(ModelFiles(tmp_path, None, "x"), config, "float32", spec))
    assert len(found) == 2


def test_layers_without_rope(tmp_path: Path) -> None:
    assert _load(tmp_path, SMOLLM3).unrotated_layers == tuple(range(3, 36, 4))
    listed = _load(tmp_path, SMOLLM3, no_rope_layers=[0, *[1] * 35], sliding_window=512)
    assert listed.unrotated_layers == (0,)
    assert listed.layer_windows == (None,) * 36
    windowed = _load(tmp_path, SMOLLM3, use_sliding_window=True, sliding_window=512)
    slides = windowed.unrotated_layers
    assert windowed.layer_windows == tuple(512 if i in slides else None for i in range(36))
    mixed = _load(tmp_path, EXAONE4_32B)
    assert mixed.unrotated_layers == tuple(range(3, 64, 4))
    assert [i for i, rope in enumerate(mixed.layer_ropes) if rope.kind == "none"] == [
        *range(3, 64, 4)
    ]
    full = _load(tmp_path, EXAONE4_32B, layer_types=None, sliding_window=None)
    assert full.unrotated_layers == ()
    assert full.layer_windows == (None,) * 64


def test_longrope_has_factors_of_short_and_of_long_contexts(tmp_path: Path) -> None:
    config = _load(tmp_path, PHI4_MINI)
    assert (config.max_model_len, config.short_rope_len) == (131072, 4096)
    assert _load(tmp_path, PHI4_MINI, max_position_embeddings=4096).short_rope_len is None
    assert config.rotary_dim == 96
    assert config.rope.attention_factor == pytest.approx((1 + math.log(32) / math.log(4096)) ** 0.5)
    for older in ("su", "yarn"):
        scaling = PHI4_MINI["rope_scaling"] | {"type": older}
        assert _load(tmp_path, PHI4_MINI, rope_scaling=scaling) == config


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (PHI4_MINI, {"partial_rotary_factor": 0.73}, "rotates 93 of 128"),
        (PHI4_MINI, {"partial_rotary_factor": 0}, "partial_rotary_factor 0"),
        (PHI4_MINI, {"rope_scaling": {"type": "longrope"}}, "short_factor is missing"),
        (
            PHI4_MINI,
            {"rope_scaling": PHI4_MINI["rope_scaling"] | {"short_factor": [1.0] * 47}},
            "short_factor has 47 numbers for 48 frequencies",
        ),
        (
            PHI4_MINI,
            {"rope_scaling": {"type": "longrope", "short_factor": [0.0] * 48}},
            "short_factor is not a list of positive numbers",
        ),
        (
            PHI4_MINI,
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48}},
            "long_factor is missing",
        ),
        (SMOLLM3, {"no_rope_layers": [0, 1]}, "no_rope_layers is not a list"),
        (SMOLLM3, {"no_rope_layers": ["x"] * 36}, "no_rope_layers is not a list"),
        (SMOLLM3, {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        (GRANITE, {"residual_multiplier": "x"}, "residual_multiplier is 'x'"),
        (
            MISTRAL3_24B,
            {"text_config": MISTRAL3_24B["text_config"] | {"model_type": "ministral3"}},
            "'ministral3', which is not supported here",
        ),
    ],
)
def test_what_a_family_cannot_have_is_refused_by_name(
    raw: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        _load(tmp_path, raw, **changes)
    assert "config.json" in caught.value.message


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("MixtralForCausalLM", "mixture of experts"),
        ("Cohere2ForCausalLM", "LayerNorm"),
        ("Ministral3ForCausalLM", "scaled by their positions"),
        ("T5ForConditionalGeneration", "an encoder reads its prompts"),
        ("Qwen3NextForCausalLM", "keep a state"),
    ],
)
def test_an_architecture_that_is_left_out_says_why(
    architecture: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"{architecture} is not supported: .*{reason}") as caught:
        _load(tmp_path, {"architectures": [architecture]})
    assert "Exaone4ForCausalLM" in caught.value.hint
