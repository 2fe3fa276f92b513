"""The decoder of all supported families: RMS norm, rotary grouped-query attention, gated MLP.

Families differ in biases and norms, which are in the weights, and in their configuration: windows
and rotary settings of each layer, activation, scales and soft caps.
T tokens in the step, R rows that sample, H query heads, K kv heads, D head dim, N hidden size,
V vocab.
"""

import torch

from thothy_batch.model.config.model_config import ModelConfig, layer_groups
from thothy_batch.model.inputs import ForwardInputs, GroupInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.rope import cos_sin_table
from thothy_batch.model.weights import DecoderWeights, LayerWeights
from thothy_kernels.gated_activation import gated
from thothy_kernels.linear import PackedLinear, pack_linear
from thothy_kernels.linear_int8 import pack_linear_int8
from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.rms_norm import add_rms_norm, rms_norm
from thothy_kernels.rope_and_write import rope_and_write_kv


class Decoder:
    """Computes logits from token ids and KV blocks.

    The constructor takes the layers out of `weights` while packing them, so plain and packed
    weights of the whole model never coexist.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        impl: str,
        attention_impl: str | None = None,
        quantization: str = "none",
    ) -> None:
        """`impl`: for all operations; `attention_impl`: for attention, if different."""
        self.config = config
        self.impl = impl
        self.device = weights.embedding.device
        self.attention_impl = attention_impl or impl
        self._embedding_VN = weights.embedding
        # Rounded to the dtype, as in training: 45.25 for the square root of 2048 in bfloat16.
        self._embedding_scale = torch.tensor(config.embedding_scale).to(weights.embedding)
        self._group_of = {
            layer: number
            for number, group in enumerate(layer_groups(config))
            for layer in group.layers
        }
        tables = {
            rope: cos_sin_table(rope, config.head_dim, config.max_model_len).to(
                weights.embedding.device
            )
            for rope in set(config.layer_ropes)
        }
        layers = weights.take_layers()
        # No variable holds the layer: it would keep plain weights alive while the next is read.
        self._layers = [
            _Layer(config, next(layers), tables[rope], impl, self.attention_impl, quantization)
            for rope in config.layer_ropes
        ]
        self._final_norm_N = weights.final_norm
        head = weights.embedding if weights.head is None else weights.head
        # Logits that are produced in float32 need no rounding in between.
        self._head = _packed(head, None, impl, quantization, torch.float32)

    @torch.inference_mode()
    def forward(self, inputs: ForwardInputs, kv: KVPool) -> torch.Tensor:
        """Compute one step: write the KV of all T tokens, return float32 logits [R, V].

        Logits are computed only for `inputs.logits_rows`, in that order; R may be 0.
        """
        x_TN = self._embed(inputs.token_ids)
        last = len(self._layers) - 1
        delta_TN = None
        for number, layer in enumerate(self._layers):
            # After the last attention only sampling rows are needed.
            rows = inputs.logits_rows if number == last else None
            group = inputs.groups[self._group_of[number]]
            cache = kv.k_of(number), kv.v_of(number)
            x_TN, delta_TN = layer.forward(x_TN, delta_TN, inputs.positions, group, cache, rows)
        return self._logits(x_TN, delta_TN)

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        x_TN = self._embedding_VN.index_select(0, token_ids)
        return x_TN if self.config.embedding_scale == 1.0 else x_TN * self._embedding_scale

    def _logits(self, x_RN: torch.Tensor, delta_RN: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        _, normed_RN = _added_norm(x_RN, delta_RN, self._final_norm_N, config, self.impl)
        logits_RV: torch.Tensor = self._head(normed_RN).float()
        if config.logit_divisor != 1.0:
            logits_RV = logits_RV / config.logit_divisor
        if config.logit_softcap:
            logits_RV = (logits_RV / config.logit_softcap).tanh_() * config.logit_softcap
        return logits_RV


class _Layer:
    """One layer: attention and feed-forward, each added to the residual stream."""

    def __init__(
        self,
        config: ModelConfig,
        weights: LayerWeights,
        cos_sin: torch.Tensor,
        impl: str,
        attention_impl: str,
        quantization: str,
    ) -> None:
        self._config = config
        self._impl = impl
        self._attention_impl = attention_impl
        self._scale = config.attention_scale
        self._cos_sin = cos_sin
        self._input_norm_N = weights.input_norm
        self._attention_out_norm_N = weights.attention_out_norm
        self._mlp_norm_N = weights.mlp_norm
        self._mlp_out_norm_N = weights.mlp_out_norm
        norms = weights.q_norm, weights.k_norm
        self._head_norms = norms if config.qk_norm else (None, None)  # [D] each
        self._wide_norms = () if config.qk_norm else tuple(n for n in norms if n is not None)
        self._qkv = _packed(weights.qkv, weights.qkv_bias, impl, quantization)
        self._o = _packed(weights.o, weights.o_bias, impl, quantization)
        self._gate_up = _packed(weights.gate_up, weights.gate_up_bias, impl, quantization)
        self._down = _packed(weights.down, weights.down_bias, impl, quantization)

    def forward(
        self,
        x_TN: torch.Tensor,
        delta_TN: torch.Tensor | None,
        positions: torch.Tensor,
        group: GroupInputs,
        cache: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual stream and the output still to be added to it, as received.

        The next norm adds that output. Both are [T, N], or [R, N] if only `rows` are needed after
        the attention. `cache`: keys and values of this layer, [B, K, P, D] each; written before
        they are read.
        """
        x_TN, normed_TN = self._added(x_TN, delta_TN, self._input_norm_N)
        attended = self._attend(normed_TN, positions, group, cache)
        if rows is not None:
            x_TN, attended = x_TN[rows], attended[rows]
        delta_TN = self._delta(self._o(attended), self._attention_out_norm_N)
        x_TN, normed_TN = self._added(x_TN, delta_TN, self._mlp_norm_N)
        gate_up = self._gate_up(normed_TN)
        inner = gated(gate_up, activation=self._config.activation, impl=self._impl)
        return x_TN, self._delta(self._down(inner), self._mlp_out_norm_N)

    def _attend(
        self,
        normed_TN: torch.Tensor,
        positions: torch.Tensor,
        group: GroupInputs,
        cache: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Return the attention output of all heads, [T, H * D]. Writes this step's KV first."""
        config, impl = self._config, self._impl
        qkv = self._qkv(normed_TN)
        self._normalise(qkv)
        q_THD = rope_and_write_kv(
            qkv,
            *self._head_norms,
            positions,
            self._cos_sin,
            *cache,
            group.slot_mapping,
            num_heads=config.num_heads,
            eps=config.rms_norm_eps,
            weight_offset=config.norm_offset,
            impl=impl,
        )
        out = paged_attention(
            q_THD,
            *cache,
            group.attention,
            scale=self._scale,
            softcap=config.attention_softcap,
            impl=self._attention_impl,
        )
        return out.flatten(1)

    def _normalise(self, qkv: torch.Tensor) -> None:
        """Normalise the queries of all heads together in place, and the keys likewise, if any."""
        start = 0
        for weight in self._wide_norms:  # [H * D], [K * D]
            part = qkv[:, start : start + len(weight)]
            part.copy_(self._added(part.contiguous(), None, weight)[1])
            start += len(weight)

    def _added(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _added_norm(x, delta, weight, self._config, self._impl)

    def _delta(self, out: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        """Return what is added to the residual stream: `out`, normalised and scaled if any."""
        out = self._added(out, None, norm)[1]
        scale = self._config.residual_scale
        return out if scale == 1.0 else out * scale


def _packed(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    impl: str,
    quantization: str,
    quantized_out: torch.dtype | None = None,
) -> PackedLinear:
    """Pack a weight. `quantized_out`: dtype of a quantised product, if not the weight's."""
    if quantization == "int8":
        return pack_linear_int8(weight, bias, impl=impl, out_dtype=quantized_out)
    return pack_linear(weight, bias, impl=impl)


def _added_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor | None,
    config: ModelConfig,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x + delta and its norm; x itself without a delta, and no norm without a weight."""
    eps, offset = config.rms_norm_eps, config.norm_offset
    if weight is None:
        x = x if delta is None else x + delta
        return x, x
    if delta is None:
        return x, rms_norm(x, weight, eps, weight_offset=offset, impl=impl)
    return add_rms_norm(x, delta, weight, eps, weight_offset=offset, impl=impl)
