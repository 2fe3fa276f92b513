"""A family's differences from the plain decoder, and the names of its tensors."""

from dataclasses import dataclass, field
from typing import Literal

# Sliding layers if config.json lists no layer_types: none; all; those from max_window_layers on, if
# use_sliding_window is set; all but every sliding_window_pattern-th; those without rope, if
# use_sliding_window is set.
Sliding = Literal["never", "always", "upper", "pattern", "unrotated"]
# Layers without rope: none; those of no_rope_layers, else every no_rope_layer_interval-th; all that
# do not slide, if there is a sliding_window.
Unrotated = Literal["never", "listed", "full"]

# Place of a norm of width N → its module in a checkpoint. One name has several meanings.
BEFORE = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
AFTER = {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
AROUND = {
    "input_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
AROUND_GLM4 = {
    "input_norm": "input_layernorm",
    "attention_out_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_out_norm": "post_mlp_layernorm",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. `defaults` apply to keys that its config.json omits."""

    label: str  # as people call it
    model_type: str  # of its text model in config.json
    defaults: dict[str, object] = field(default_factory=dict)
    sliding: Sliding = "never"
    unrotated: Unrotated = "never"
    has_qkv_bias: bool = False  # always
    # Keys of config.json that switch biases on; None: there is none.
    qkv_bias_key: str | None = None
    o_bias_key: str | None = None
    mlp_bias_key: str | None = None
    qk_norm: Literal["none", "head", "all"] = "none"  # of each head, or of all heads together
    norms: dict[str, str] = field(default_factory=lambda: BEFORE)
    # Tensors that the checkpoint has merged: "qkv", "gate_up".
    merged: tuple[str, ...] = ()
    # Norm weights are stored minus 1, embeddings scaled by the square root of their size.
    is_gemma: bool = False
    # query_pre_attn_scalar, and soft caps on scores and logits.
    reads_softcaps: bool = False
    reads_multipliers: bool = False  # of embeddings, scores, residuals and logits (Granite)
    activation_key: str = "hidden_act"
    ropes_by_layer_type: bool = False
    is_partly_rotated: bool = False  # partial_rotary_factor counts
    rotates_pairs: bool = False  # adjacent elements are rotated together, not halves
    rope_aliases: dict[str, str] = field(default_factory=dict)  # other names of rope types


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A multimodal architecture around a supported text model, a section of its config.json.

    Prompts of text alone never reach the other parts, whose weights are not read.
    """

    label: str
    # model_type in the text model's section → that of its family; the first if none is named.
    text_types: dict[str, str]
    # Settings of the text model that are left out of the section.
    defaults: dict[str, object] = field(default_factory=dict)
    may_be_flat: bool = False  # older files have no such section: all settings are at the top
