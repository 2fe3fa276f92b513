"""Rotary tables against transformers' own functions."""

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from thothy_batch.model.config.rope_config import RopeConfig, parse_rope, parse_ropes_by_layer_type
from thothy_batch.model.rope import cos_sin_table, inverse_frequencies

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
    {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.8},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.707},
    {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.75},
    {"rope_type": "yarn", "factor": 1.0},
    {
        "rope_type": "yarn",
        "factor": 16.0,
        "beta_fast": 64,
        "beta_slow": 2,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
]


def _oracle(settings: dict[str, Any], head_dim: int, theta: float) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=head_dim * 4,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=65536,
        rope_parameters={**settings, "rope_theta": theta},
    )


# The power is the same on both sides; then each has four roundings at most, of half a step.
RTOL = 4 * torch.finfo(torch.float32).eps


def _assert_turned(
    table: torch.Tensor,
    theirs: tuple[torch.Tensor, torch.Tensor],
    frequencies: tuple[RopeConfig, torch.Tensor],
) -> None:
    """Angles differ as the frequencies do, and each is rounded once; then a function of it errs by
    a place at most, and what it is scaled by makes it half a place more."""
    rope, of_theirs = frequencies
    length, head_dim = table.shape
    ours = inverse_frequencies(rope, head_dim).double()
    eps = torch.finfo(torch.float32).eps
    apart = (ours - of_theirs.double()).abs() + ours * eps
    bound = torch.arange(length)[:, None] * apart + 3 * eps
    found = table.unflatten(1, (2, -1))
    for half, wanted in zip(found.unbind(1), theirs, strict=True):
        error = (half.double() - wanted[:, : head_dim // 2]).abs()
        assert (error <= bound * rope.attention_factor).all()


@pytest.mark.parametrize("settings", CASES, ids=lambda s: str(s["rope_type"]))
@pytest.mark.parametrize(("head_dim", "theta"), [(16, 1e4), (128, 1e6), (64, 5e5)])
def test_frequencies_and_attention_factor_equal_transformers(
    settings: dict[str, Any], head_dim: int, theta: float
) -> None:
    rope = parse_rope({"rope_theta": theta, "rope_scaling": settings}, 65536, "config.json")
    oracle = _oracle(settings, head_dim, theta)
    if settings["rope_type"] == "default":
        expected, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(oracle)
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](oracle)
    assert rope.attention_factor == pytest.approx(factor, rel=1e-12)
    torch.testing.assert_close(inverse_frequencies(rope, head_dim), expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize(
    "settings", [CASES[0], CASES[2], CASES[4]], ids=["default", "llama3", "yarn"]
)
def test_table_equals_transformers(settings: dict[str, Any]) -> None:
    rope = parse_rope({"rope_theta": 1e6, "rope_parameters": settings}, 65536, "config.json")
    embedding = LlamaRotaryEmbedding(_oracle(settings, 64, 1e6))
    positions = torch.arange(512)
    cos, sin = embedding(torch.zeros(1, dtype=torch.float32), positions[None])
    table = cos_sin_table(rope, 64, 512)
    assert table.shape == (512, 64)
    assert table.dtype == torch.float32
    _assert_turned(table, (cos[0], sin[0]), (rope, embedding.inv_freq))


@pytest.mark.parametrize("layer_type", ["full_attention", "sliding_attention"])
def test_tables_of_layer_types_equal_transformers(layer_type: str) -> None:
    settings: dict[str, Any] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    raw = {"rope_parameters": settings}
    full, sliding = parse_ropes_by_layer_type(raw, 4096, "config.json")
    oracle = Gemma3RotaryEmbedding(
        Gemma3TextConfig(
            head_dim=32,
            num_hidden_layers=6,
            max_position_embeddings=4096,
            rope_parameters={key: dict(value) for key, value in settings.items()},
        )
    )
    cos, sin = oracle(torch.zeros(1), torch.arange(512)[None], layer_type)
    rope = full if layer_type == "full_attention" else sliding
    table = cos_sin_table(rope, 32, 512)
    theirs = getattr(oracle, f"{layer_type}_inv_freq")
    _assert_turned(table, (cos[0], sin[0]), (rope, theirs))


def test_both_forms_of_settings_by_layer_type_say_the_same() -> None:
    older = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"type": "linear", "factor": 8.0},
    }
    newer = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    half_said = {"rope_theta": 1e6, "rope_parameters": {"sliding_attention": None}}
    assert parse_ropes_by_layer_type(older, 4096, "") == parse_ropes_by_layer_type(newer, 4096, "")
    full, sliding = parse_ropes_by_layer_type(half_said, 4096, "")
    assert (full.theta, full.kind, sliding.theta) == (1e6, "default", 1e4)
