"""Families whose layers differ: windows, groups, rope by layer type, and what is left unsaid."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_configs import (
    BY_NAME,
    FULL,
    GEMMA2_9B,
    GEMMA3_1B,
    GEMMA3_4B,
    MINISTRAL,
    MISTRAL_V01,
    QWEN2,
    QWEN3,
    SLIDING,
)

from thothy_batch.errors import ModelError
from thothy_batch.model.config.model_config import (
    ModelConfig,
    group_kv_bytes_per_token,
    kv_bytes_per_token,
    layer_groups,
    load_config,
    stop_token_ids,
)
from thothy_batch.records import LayerGroup


def _load(folder: Path, raw: dict[str, Any], **changes: object) -> ModelConfig:
    kept = {key: value for key, value in (raw | changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))
    return load_config(folder)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_means_what_transformers_writes_of_it(name: str, tmp_path: Path) -> None:
    """transformers writes out what was left unsaid, in the newer form."""
    from transformers import AutoConfig

    ours = _load(tmp_path, BY_NAME[name])
    (tmp_path / "saved").mkdir()
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    saved = load_config(tmp_path / "saved")
    changed = {
        field
        for field in ModelConfig.__dataclass_fields__
        if getattr(ours, field) != getattr(saved, field)
    }
    assert changed <= {"stop_token_ids"}  # transformers has one for every family


def test_layers_of_one_window_are_a_group(tmp_path: Path) -> None:
    gemma = layer_groups(_load(tmp_path, GEMMA3_1B))
    full = (5, 11, 17, 23)
    assert gemma == (
        LayerGroup(full),
        LayerGroup(tuple(i for i in range(26) if i not in full), 512),
    )
    assert layer_groups(_load(tmp_path, GEMMA2_9B)) == (
        LayerGroup(tuple(range(1, 42, 2))),
        LayerGroup(tuple(range(0, 42, 2)), 4096),
    )
    assert layer_groups(_load(tmp_path, QWEN2)) == (
        LayerGroup(tuple(range(21))),
        LayerGroup(tuple(range(21, 28)), 16384),
    )
    assert layer_groups(_load(tmp_path, MISTRAL_V01)) == (LayerGroup(tuple(range(32)), 4096),)
    mixed = layer_groups(_load(tmp_path, MINISTRAL))
    assert mixed[0] == LayerGroup(tuple(range(0, 32, 4)))
    assert mixed[1].window == 8192


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        (MISTRAL_V01, {"sliding_window": None}),
        (MISTRAL_V01, {"sliding_window": 32768}),
        (MISTRAL_V01, {"sliding_window": "absent", "max_position_embeddings": 4096}),
        (QWEN2, {"use_sliding_window": False}),
        (QWEN2, {"use_sliding_window": False, "layer_types": [SLIDING] * 28}),
        (QWEN2, {"max_window_layers": 28}),
        (QWEN3, {"layer_types": [FULL] * 28}),
        (QWEN3, {"sliding_window": 131072}),
        (GEMMA2_9B, {"max_position_embeddings": 4096}),
        (MISTRAL_V01, {"architectures": ["LlamaForCausalLM"]}),
    ],
)
def test_without_a_window_that_matters_all_layers_are_one_group(
    raw: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    config = _load(tmp_path, raw, **changes)
    assert config.layer_windows == (None,) * config.num_layers
    assert layer_groups(config) == (LayerGroup(tuple(range(config.num_layers))),)


def test_a_window_is_measured_against_the_context_that_yarn_reaches(tmp_path: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    config = _load(
        tmp_path,
        MISTRAL_V01,
        max_position_embeddings=8192,
        sliding_window=8192,
        rope_scaling=yarn,
    )
    assert config.max_model_len == 32768
    assert config.layer_windows == (8192,) * 32


def test_layer_types_of_a_mistral_file_are_those_of_ministral(tmp_path: Path) -> None:
    """As transformers' AutoConfig understands such a file."""
    alike = _load(tmp_path, MINISTRAL, architectures=["MistralForCausalLM"])
    assert alike.layer_windows == _load(tmp_path, MINISTRAL).layer_windows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [FULL] * 3}, "layer_types has 3 entries for 28 layers"),
        ({"layer_types": "full"}, "layer_types has 'full'"),
        ({"layer_types": ["chunked_attention"] * 28}, "'chunked_attention' is not supported"),
        ({"layer_types": [[]] * 28}, "is not supported"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": "512"}, "sliding_window is '512'"),
        ({"max_window_layers": "all"}, "max_window_layers is 'all'"),
    ],
)
def test_windows_that_make_no_sense_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        _load(tmp_path, QWEN3, **changes)
    assert "config.json" in caught.value.message


@pytest.mark.parametrize("raw", [GEMMA3_1B, MISTRAL_V01, GEMMA2_9B])
def test_groups_share_out_the_bytes_of_a_token(raw: dict[str, Any], tmp_path: Path) -> None:
    config = _load(tmp_path, raw)
    by_group = group_kv_bytes_per_token(config, "bfloat16")
    assert sum(by_group) == kv_bytes_per_token(config, "bfloat16")
    of_layer = 2 * config.num_kv_heads * config.head_dim * 2
    assert by_group == tuple(len(group.layers) * of_layer for group in layer_groups(config))


def test_only_full_layers_of_gemma3_are_scaled(tmp_path: Path) -> None:
    config = _load(tmp_path, GEMMA3_4B)
    full, sliding = config.layer_ropes[5], config.layer_ropes[0]
    assert (full.kind, full.factor, full.theta) == ("linear", 8.0, 1e6)
    assert (sliding.kind, sliding.theta) == ("default", 1e4)
    assert [i for i, rope in enumerate(config.layer_ropes) if rope == full] == [5, 11, 17, 23, 29]


def test_layers_keep_their_rope_where_no_window_matters(tmp_path: Path) -> None:
    config = _load(tmp_path, GEMMA3_1B, max_position_embeddings=512)
    assert config.layer_windows == (None,) * 26
    assert config.layer_ropes == _load(tmp_path, GEMMA3_1B).layer_ropes


def test_rope_of_gemma3_must_be_told_by_layer_type(tmp_path: Path) -> None:
    flat = {"rope_type": "default", "rope_theta": 1e6}
    with pytest.raises(ModelError, match="rope_parameters has 'rope_type'"):
        _load(tmp_path, GEMMA3_1B, rope_parameters=flat)
    with pytest.raises(ModelError, match="not a JSON object"):
        _load(tmp_path, GEMMA3_1B, rope_parameters={FULL: 1})


def test_what_makes_a_gemma(tmp_path: Path) -> None:
    second, third = _load(tmp_path, GEMMA2_9B), _load(tmp_path, GEMMA3_1B)
    for config in (second, third):
        assert config.sandwich_norms
        assert config.norm_offset == 1.0
        assert config.activation == "gelu_tanh"
        assert config.embedding_scale == config.hidden_size**0.5
        assert config.query_scalar == 256
        assert config.tie_word_embeddings
    assert (second.attention_softcap, second.logit_softcap, second.qk_norm) == (50.0, 30.0, False)
    assert (third.attention_softcap, third.logit_softcap, third.qk_norm) == (0.0, 0.0, True)
    uncapped = _load(tmp_path, GEMMA2_9B, attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (uncapped.attention_softcap, uncapped.logit_softcap) == (0.0, 0.0)
    assert not _load(tmp_path, GEMMA2_9B, tie_word_embeddings=False).tie_word_embeddings


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (GEMMA3_1B, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA3_1B, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping of Gemma 3"),
        (GEMMA3_1B, {"hidden_activation": "relu"}, "hidden_activation 'relu'"),
        (GEMMA3_1B, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        (GEMMA3_4B, {"text_config": "absent"}, "text_config is missing"),
        (GEMMA3_4B, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_a_gemma_cannot_have_is_refused_by_name(
    raw: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        _load(tmp_path, raw, **changes)


def test_stop_ids_of_a_text_section_count(tmp_path: Path) -> None:
    text = GEMMA3_4B["text_config"] | {"eos_token_id": 7}
    _load(tmp_path, GEMMA3_4B, text_config=text)
    assert stop_token_ids(tmp_path) == (1, 7, 106)
