"""The tensors of a decoder in compute layout: q, k, v merged, gate and up merged, halves rotated.

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

    input_norm: torch.Tensor | None  # [N]
    qkv: torch.Tensor  # [(H + 2K) * D, N]: q rows, then k, then v
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None  # [D], or [H * D] of all heads together
    k_norm: torch.Tensor | None  # [D], or [K * D]
    o: torch.Tensor  # [N, H * D]
    o_bias: torch.Tensor | None
    attention_out_norm: torch.Tensor | None  # [N]
    mlp_norm: torch.Tensor | None  # [N]
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


def to_halves(config: ModelConfig, layer: LayerWeights) -> None:
    """Reorder the heads of queries and keys in place: halves of a head rotate together."""
    D = config.head_dim
    order = rotary_layout(D, config.rotary_dim, config.rotates_pairs)
    if order == list(range(D)):
        return
    num_rotated = (config.num_heads + config.num_kv_heads) * D
    merged = (layer.qkv, layer.qkv_bias)
    rotated = [None if tensor is None else tensor[:num_rotated] for tensor in merged]
    for tensor in (*rotated, layer.q_norm, layer.k_norm):
        if tensor is not None:
            heads = tensor.view(-1, D, *tensor.shape[1:])
            heads.copy_(heads[:, order])


def rotary_layout(head_dim: int, rotary_dim: int, rotates_pairs: bool) -> list[int]:
    """Return the elements of a checkpoint's head in the order in which halves rotate together.

    Element i of the result turns with element i + D/2. Rows of queries and keys in one order have
    the products of any other, so a head can be reordered when it is loaded.
    """
    step, second = (2, 1) if rotates_pairs else (1, rotary_dim // 2)
    rotated = [step * i for i in range(rotary_dim // 2)]
    middle = (rotary_dim + head_dim) // 2
    return [
        *rotated,
        *range(rotary_dim, middle),
        *(element + second for element in rotated),
        *range(middle, head_dim),
    ]


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
    kv_size = config.num_kv_heads * D
    qkv_size = q_size + 2 * kv_size
    has_qk_norm = config.qk_norm or config.qk_norm_over_heads
    q_norm, k_norm = (D, D) if config.qk_norm else (q_size, kv_size)
    norms = config.family.norms
    return LayerWeights(
        input_norm=allocate.if_any("input_norm" in norms, N),
        qkv=allocate(qkv_size, N),
        qkv_bias=allocate.if_any(config.qkv_bias, qkv_size),
        q_norm=allocate.if_any(has_qk_norm, q_norm),
        k_norm=allocate.if_any(has_qk_norm, k_norm),
        o=allocate(N, q_size),
        o_bias=allocate.if_any(config.o_bias, N),
        attention_out_norm=allocate.if_any("attention_out_norm" in norms, N),
        mlp_norm=allocate.if_any("mlp_norm" in norms, N),
        gate_up=allocate(2 * F, N),
        gate_up_bias=allocate.if_any(config.mlp_bias, 2 * F),
        down=allocate(N, F),
        down_bias=allocate.if_any(config.mlp_bias, N),
        mlp_out_norm=allocate.if_any("mlp_out_norm" in norms, N),
    )


def _layer_places(config: ModelConfig, layer: LayerWeights) -> dict[str, torch.Tensor]:
    named = {
        "self_attn.q_norm.weight": layer.q_norm,
        "self_attn.k_norm.weight": layer.k_norm,
        "self_attn.o_proj.weight": layer.o,
        "self_attn.o_proj.bias": layer.o_bias,
        "mlp.down_proj.weight": layer.down,
        "mlp.down_proj.bias": layer.down_bias,
    }
    for place, module in config.family.norms.items():
        named[f"{module}.weight"] = getattr(layer, place)
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    qkv = {"q": q_size, "k": kv_size, "v": kv_size}
    gate_up = dict.fromkeys(("gate", "up"), config.intermediate_size)
    for kind, tensor in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
        named |= _parts(config, "self_attn", qkv, kind, tensor)
    for kind, tensor in (("weight", layer.gate_up), ("bias", layer.gate_up_bias)):
        named |= _parts(config, "mlp", gate_up, kind, tensor)
    return {name: part for name, part in named.items() if part is not None}


def _parts(
    config: ModelConfig,
    module: str,
    sizes: dict[str, int],
    kind: str,
    tensor: torch.Tensor | None,
) -> dict[str, torch.Tensor | None]:
    """Return the places of a merged tensor, one or several, as the family's checkpoints have it."""
    merged = "qkv" if "q" in sizes else "gate_up"
    if tensor is None or merged in config.family.merged:
        return {f"{module}.{merged}_proj.{kind}": tensor}
    parts = torch.split(tensor, list(sizes.values()))
    names = (f"{module}.{name}_proj.{kind}" for name in sizes)
    return dict(zip(names, parts, strict=True))
