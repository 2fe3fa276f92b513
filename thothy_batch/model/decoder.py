"""The decoder of all supported families: RMS norm, rotary grouped-query attention, SwiGLU.

Families differ in biases and in norms on query and key heads only; both are in the weights.
T tokens in the step, R rows that sample, H query heads, K kv heads, D head dim, N hidden size,
V vocab.
"""

import torch

from thothy_batch.model.config import ModelConfig
from thothy_batch.model.inputs import ForwardInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.rope import cos_sin_table
from thothy_batch.model.weights import DecoderWeights, LayerWeights
from thothy_kernels.gated_activation import silu_mul
from thothy_kernels.kv_write import write_kv
from thothy_kernels.linear import pack_linear
from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.rms_norm import rms_norm
from thothy_kernels.rope import apply_rope


class Decoder:
    """Token ids and KV blocks in, logits out. Takes the layers out of `weights` as it packs them,
    so that plain and packed weights of the whole model never stand side by side."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights, impl: str) -> None:
        self.config = config
        self.impl = impl
        self._embedding_VN = weights.embedding
        table = cos_sin_table(config.rope, config.head_dim, config.max_model_len)
        table = table.to(weights.embedding.device)
        self._layers: list[_Layer] = []
        while weights.layers:
            self._layers.append(_Layer(config, weights.layers.pop(0), table, impl))
        self._final_norm_N = weights.final_norm
        head = weights.embedding if weights.head is None else weights.head
        self._head = pack_linear(head, None, impl=impl)

    @torch.inference_mode()
    def forward(self, inputs: ForwardInputs, kv: KVPool) -> torch.Tensor:
        """One step: writes the KV of all T tokens, returns float32 logits [R, V].

        Logits exist only for `inputs.logits_rows`, in that order; R may be 0.
        """
        x_TN = self._embedding_VN.index_select(0, inputs.token_ids)
        last = len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            # Behind the last attention only rows that sample are of use.
            rows = inputs.logits_rows if number == last else None
            x_TN = layer.forward(x_TN, inputs, kv.k[number], kv.v[number], rows)
        x_RN = rms_norm(x_TN, self._final_norm_N, self.config.rms_norm_eps, impl=self.impl)
        return self._head(x_RN).float()


class _Layer:
    """Attention and feed-forward, each added to what goes by."""

    def __init__(
        self, config: ModelConfig, weights: LayerWeights, cos_sin: torch.Tensor, impl: str
    ) -> None:
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim
        self._scale = config.head_dim**-0.5
        self._eps = config.rms_norm_eps
        self._impl = impl
        self._cos_sin = cos_sin
        self._input_norm_N = weights.input_norm
        self._post_norm_N = weights.post_norm
        self._q_norm_D = weights.q_norm
        self._k_norm_D = weights.k_norm
        self._qkv = pack_linear(weights.qkv, weights.qkv_bias, impl=impl)
        self._o = pack_linear(weights.o, weights.o_bias, impl=impl)
        self._gate_up = pack_linear(weights.gate_up, weights.gate_up_bias, impl=impl)
        self._down = pack_linear(weights.down, weights.down_bias, impl=impl)

    def forward(
        self,
        x_TN: torch.Tensor,
        inputs: ForwardInputs,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """[T, N] to [T, N], or to [R, N] where only `rows` are needed behind the attention."""
        attended = self._attend(x_TN, inputs, k_cache, v_cache)
        if rows is not None:
            x_TN, attended = x_TN[rows], attended[rows]
        x_TN = x_TN + self._o(attended)
        normed = rms_norm(x_TN, self._post_norm_N, self._eps, impl=self._impl)
        return x_TN + self._down(silu_mul(self._gate_up(normed), impl=self._impl))

    def _attend(
        self,
        x_TN: torch.Tensor,
        inputs: ForwardInputs,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """What every token's heads gathered, [T, H * D]. Writes this step's KV first."""
        impl, D = self._impl, self._head_dim
        q_size, kv_size = self._num_heads * D, self._num_kv_heads * D
        qkv = self._qkv(rms_norm(x_TN, self._input_norm_N, self._eps, impl=impl))
        q, k, v = torch.split(qkv, [q_size, kv_size, kv_size], dim=-1)
        q_THD, k_TKD, v_TKD = (part.view(part.shape[0], -1, D) for part in (q, k, v))
        if self._q_norm_D is not None and self._k_norm_D is not None:
            q_THD = rms_norm(q_THD, self._q_norm_D, self._eps, impl=impl)
            k_TKD = rms_norm(k_TKD, self._k_norm_D, self._eps, impl=impl)
        q_THD, k_TKD = apply_rope(q_THD, k_TKD, inputs.positions, self._cos_sin, impl=impl)
        write_kv(k_TKD, v_TKD, k_cache, v_cache, inputs.slot_mapping, impl=impl)
        out = paged_attention(
            q_THD, k_cache, v_cache, inputs.attention, scale=self._scale, impl=impl
        )
        return out.flatten(1)
