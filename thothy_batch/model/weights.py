"""The tensors of a decoder in compute layout: q, k, v merged, gate and up merged.

A checkpoint's tensors are copied one at a time into the merged ones, so no second copy of the model
exists. N hidden size, F intermediate size, V vocab, D head dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from thothy_batch.model.config.model_config import ModelConfig

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class LayerWeights:
    """One layer. A bias or norm that the family lacks is None."""

    input_norm: torch.Tensor  # [N]
    qkv: torch.Tensor  # [(H + 2K) * D, N]: q rows, then k, then v
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None  # [D]
    k_norm: torch.Tensor | None
    o: torch.Tensor  # [N, H * D]
    o_bias: torch.Tensor | None
    attention_out_norm: torch.Tensor | None  # [N]
    mlp_norm: torch.Tensor  # [N]
    gate_up: torch.Tensor  # [2F, N]: gate rows, then up
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor  # [N, F]
    down_bias: torch.Tensor | None
    mlp_out_norm: torch.Tensor | None  # [N]


@dataclass(slots=True)
class DecoderWeights:
    """All tensors of a model. `head` is None if the LM head is the embedding table."""

    embedding: torch.Tensor  # [V, N]
    layers: list[LayerWeights]
    final_norm: torch.Tensor  # [N]
    head: torch.Tensor | None  # [V, N]
    read_layer: Callable[[int], None] | None = None  # fills a layer; None: all layers are filled

    def take_layers(self) -> Iterator[LayerWeights]:
        """Yield the layers in order; each is filled on demand and not kept here."""
        for number in range(len(self.layers)):
            if self.read_layer is not None:
                self.read_layer(number)
            yield self.layers.pop(0)


def empty_weights(config: ModelConfig, dtype: str, device: str = "cpu") -> DecoderWeights:
    """Allocate tensors of the right shapes; contents are undefined."""
    allocate = _Allocator(TORCH_DTYPES[dtype], device)
    table = (config.vocab_size, config.hidden_size)
    return DecoderWeights(
        embedding=allocate(*table),
        layers=[_empty_layer(config, allocate) for _ in range(config.num_layers)],
        final_norm=allocate(config.hidden_size),
        head=None if config.tie_word_embeddings else allocate(*table),
    )


def places(config: ModelConfig, weights: DecoderWeights) -> dict[str, torch.Tensor]:
    """Return name in a checkpoint → view of the tensor part that it fills."""
    named = {"model.embed_tokens.weight": weights.embedding}
    for number, layer in enumerate(weights.layers):
        for name, part in _layer_places(config, layer).items():
            named[f"model.layers.{number}.{name}"] = part
    named["model.norm.weight"] = weights.final_norm
    if weights.head is not None:
        named["lm_head.weight"] = weights.head
    return named


class _Allocator:
    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype = dtype
        self.device = device

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def if_any(self, exists: bool, *shape: int) -> torch.Tensor | None:
        return self(*shape) if exists else None


def _empty_layer(config: ModelConfig, allocate: _Allocator) -> LayerWeights:
    N, F, D = config.hidden_size, config.intermediate_size, config.head_dim
    q_size = config.num_heads * D
    qkv_size = q_size + 2 * config.num_kv_heads * D
    return LayerWeights(
        input_norm=allocate(N),
        qkv=allocate(qkv_size, N),
        qkv_bias=allocate.if_any(config.qkv_bias, qkv_size),
        q_norm=allocate.if_any(config.qk_norm, D),
        k_norm=allocate.if_any(config.qk_norm, D),
        o=allocate(N, q_size),
        o_bias=allocate.if_any(config.o_bias, N),
        attention_out_norm=allocate.if_any(config.sandwich_norms, N),
        mlp_norm=allocate(N),
        gate_up=allocate(2 * F, N),
        gate_up_bias=allocate.if_any(config.mlp_bias, 2 * F),
        down=allocate(N, F),
        down_bias=allocate.if_any(config.mlp_bias, N),
        mlp_out_norm=allocate.if_any(config.sandwich_norms, N),
    )


def _layer_places(config: ModelConfig, layer: LayerWeights) -> dict[str, torch.Tensor]:
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    merged = {
        "self_attn": (("q_proj", "k_proj", "v_proj"), [q_size, kv_size, kv_size]),
        "mlp": (("gate_proj", "up_proj"), [config.intermediate_size] * 2),
    }
    tensors = {
        ("self_attn", "weight"): layer.qkv,
        ("self_attn", "bias"): layer.qkv_bias,
        ("mlp", "weight"): layer.gate_up,
        ("mlp", "bias"): layer.gate_up_bias,
    }
    named = {
        "self_attn.q_norm.weight": layer.q_norm,
        "self_attn.k_norm.weight": layer.k_norm,
        "self_attn.o_proj.weight": layer.o,
        "self_attn.o_proj.bias": layer.o_bias,
        "mlp.down_proj.weight": layer.down,
        "mlp.down_proj.bias": layer.down_bias,
    }
    named |= _norm_places(config, layer)
    for (module, kind), tensor in tensors.items():
        if tensor is not None:
            projections, sizes = merged[module]
            for projection, part in zip(projections, torch.split(tensor, sizes), strict=True):
                named[f"{module}.{projection}.{kind}"] = part
    return {name: part for name, part in named.items() if part is not None}


def _norm_places(config: ModelConfig, layer: LayerWeights) -> dict[str, torch.Tensor | None]:
    """Return the places of the norms of width N.

    One name has two meanings: a norm after attention, if the family has one, bears the name that
    other families give to the norm before the feed-forward.
    """
    named: dict[str, torch.Tensor | None] = {"input_layernorm.weight": layer.input_norm}
    if not config.sandwich_norms:
        return named | {"post_attention_layernorm.weight": layer.mlp_norm}
    return named | {
        "post_attention_layernorm.weight": layer.attention_out_norm,
        "pre_feedforward_layernorm.weight": layer.mlp_norm,
        "post_feedforward_layernorm.weight": layer.mlp_out_norm,
    }
