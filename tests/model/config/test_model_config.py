"""Both forms of config.json are read; unsupported ones are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.model.config.model_config import (
    kv_bytes_per_token,
    load_config,
    num_parameters,
    resolve_dtype,
    stop_token_ids,
)
from thothy_batch.records import ModelSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def _write(folder: Path, **changes: object) -> Path:
    raw = {key: value for key, value in (LLAMA | changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_old_and_new_form_say_the_same(tmp_path: Path) -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old = _write(
        tmp_path / "old",
        rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", **scaling},
        torch_dtype="bfloat16",
    )
    new = _write(
        tmp_path / "new",
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, **scaling},
        dtype="bfloat16",
    )
    config = load_config(old)
    assert config == load_config(new)
    assert config.rope.kind == "llama3"
    assert config.rope.theta == 500000.0
    assert config.checkpoint_dtype == "bfloat16"


def test_older_spelling_of_the_rope_type(tmp_path: Path) -> None:
    directory = _write(tmp_path, rope_scaling={"type": "linear", "factor": 2.0})
    rope = load_config(directory).rope
    assert (rope.kind, rope.factor, rope.theta) == ("linear", 2.0, 10000.0)


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    config = load_config(_write(tmp_path, rope_scaling=scaling))
    assert config.max_position_embeddings == 512
    assert config.max_model_len == 2048


@pytest.mark.parametrize("kind", ["proportional", "su", "mrope"])
def test_other_rope_types_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"'{kind}'") as caught:
        load_config(_write(tmp_path, rope_scaling={"type": kind, "factor": 2.0}))
    assert "llama3" in caught.value.hint


def test_rope_settings_by_layer_are_refused(tmp_path: Path) -> None:
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    with pytest.raises(ModelError, match="differ by layer"):
        load_config(_write(tmp_path, rope_parameters=nested))


def test_partial_rotary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="partial_rotary_factor"):
        load_config(_write(tmp_path, partial_rotary_factor=0.5))


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor"])
def test_a_missing_rope_parameter_is_named(missing: str, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    del scaling[missing]
    with pytest.raises(ModelError, match=f"config.json.*{missing}"):
        load_config(_write(tmp_path, rope_scaling=scaling))


@pytest.mark.parametrize("name", ["GptOssForCausalLM", "Gemma3nForConditionalGeneration"])
def test_unsupported_architecture_names_the_supported_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=name) as caught:
        load_config(_write(tmp_path, architectures=[name]))
    for supported in ("Llama", "Mistral", "Ministral", "Qwen2", "Qwen3", "Gemma2", "Gemma3"):
        assert f"{supported}ForCausalLM" in caught.value.hint
    with pytest.raises(ModelError, match="gpt2"):
        load_config(_write(tmp_path, architectures="absent", model_type="gpt2"))


def test_quantized_checkpoints_and_other_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="awq"):
        load_config(_write(tmp_path, quantization_config={"quant_method": "awq"}))
    with pytest.raises(ModelError, match="hidden_act 'gelu' is not supported") as caught:
        load_config(_write(tmp_path, hidden_act="gelu"))
    assert "gelu_pytorch_tanh" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "absent"}, "hidden_size is missing"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers is 'three'"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True"),
        ({"num_key_value_heads": 3}, "8 attention heads"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
    ],
)
def test_a_bad_value_names_file_and_key(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_config(_write(tmp_path, **changes))
    assert "config.json" in caught.value.message


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_broken_config_names_the_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="config.json"):
        load_config(tmp_path)


def test_families_differ_in_biases_and_head_norms(tmp_path: Path) -> None:
    def of(name: str, **changes: object) -> tuple[bool, ...]:
        c = load_config(
            _write(tmp_path, architectures=[f"{name}ForCausalLM"], sliding_window=None, **changes)
        )
        return c.qkv_bias, c.o_bias, c.mlp_bias, c.qk_norm

    assert of("Llama") == (False, False, False, False)
    assert of("Llama", attention_bias=True, mlp_bias=True) == (True, True, True, False)
    assert of("Mistral", attention_bias=True) == (False, False, False, False)
    assert of("Qwen2") == (True, False, False, False)
    assert of("Qwen3") == (False, False, False, True)
    assert of("Qwen3", attention_bias=True) == (True, True, False, True)


def test_stop_ids_are_the_union_of_both_files(tmp_path: Path) -> None:
    _write(tmp_path, eos_token_id=7)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 3]}')
    assert stop_token_ids(tmp_path) == (3, 7, 9)
    assert load_config(tmp_path).stop_token_ids == (3, 7, 9)
    (tmp_path / "generation_config.json").write_text("{}")
    assert stop_token_ids(_write(tmp_path, eos_token_id=None)) == ()


@pytest.mark.parametrize(
    "variant",
    ["llama-tied-bias", "qwen2", "qwen3", "mistral", "gemma2", "gemma3-linear-bias"],
)
def test_parameters_count_like_transformers(
    variant: str, make_checkpoint: Callable[..., tuple[Path, Any]]
) -> None:
    directory, oracle = make_checkpoint(variant)
    config = load_config(directory)
    assert num_parameters(config) == sum(p.numel() for p in oracle.parameters())
    in_layers = sum(p.numel() for p in oracle.model.layers.parameters())
    assert config.num_body_parameters == in_layers + oracle.model.norm.weight.numel()
    assert kv_bytes_per_token(config, "bfloat16") * 2 == kv_bytes_per_token(config, "float32")
    kv_size = 2 * config.num_kv_heads * config.head_dim
    assert kv_bytes_per_token(config, "float32") == config.num_layers * kv_size * 4


@pytest.mark.parametrize(
    ("named", "layers", "device", "asked", "expected"),
    [
        ("bfloat16", 3, "cpu", "auto", "float32"),  # small
        ("bfloat16", 20000, "cpu", "auto", "bfloat16"),
        ("bfloat16", 3, "cuda", "auto", "bfloat16"),
        ("float16", 20000, "cpu", "auto", "float32"),
        ("float32", 20000, "cuda", "auto", "float32"),
        ("absent", 20000, "cuda", "auto", "float32"),
        ("bfloat16", 20000, "cpu", "float32", "float32"),
        ("float32", 3, "cpu", "bfloat16", "bfloat16"),
    ],
)
def test_dtype(
    named: str, layers: int, device: str, asked: str, expected: str, tmp_path: Path
) -> None:
    config = load_config(_write(tmp_path, torch_dtype=named, num_hidden_layers=layers))
    assert resolve_dtype(config, ModelSpec(dtype=asked), device) == expected


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float8"):
        resolve_dtype(load_config(_write(tmp_path)), ModelSpec(dtype="float8"), "cpu")


def test_without_a_named_dtype_the_weights_decide(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    _write(tmp_path)
    save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    assert load_config(tmp_path).checkpoint_dtype == "bfloat16"
