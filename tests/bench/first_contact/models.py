"""Decoders with random weights, of sizes that sections ask for."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from device_place import DEVICE, IS_DRY_RUN

from first_contact.place import HALF
from thothy_batch.engine.core.config import EngineConfig, resolve_config
from thothy_batch.engine.execution.decode_graphs import DecodeGraphs
from thothy_batch.engine.execution.gpu_runner import GPURunner
from thothy_batch.model.config.model_config import kv_bytes_per_token, layer_groups
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import EngineSpec, ModelSpec

# Qwen3-0.6B; in a dry run as many kinds of layers, and little to compute.
_SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "max_position_embeddings": 40_960,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
}
_SIZES = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_TINY_SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
_DTYPE = str(HALF).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Engine:
    """A decoder with its pool, for runners. `kv_bytes`: keys and values of one token."""

    model: LoadedModel
    config: EngineConfig
    kv: KVPool

    @property
    def kv_bytes(self) -> int:
        return kv_bytes_per_token(self.model.config, _DTYPE)

    def runner(self, buckets: list[int], graphs: DecodeGraphs | None = None) -> GPURunner:
        return GPURunner(
            self.model.decoder,
            self.kv,
            self.config.layout,
            max_seqs=self.config.max_seqs,
            graphs=graphs,
            buckets=buckets,
        )


def load(*, num_blocks: int, max_seqs: int, num_layers: int | None = None) -> Engine:
    shape = _SHAPE | (_TINY_SIZES if IS_DRY_RUN else _SIZES)
    if num_layers is not None:
        shape["num_hidden_layers"] = num_layers
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(shape | {"dtype": _DTYPE}))
        spec = ModelSpec(id=folder, dtype=_DTYPE, random_weights=True)
        model = load_decoder(spec, device=DEVICE, impl="triton")
    config = resolve_config(
        EngineSpec(
            model=spec,
            device=DEVICE,
            impl="triton" if IS_DRY_RUN else "auto",
            num_blocks=num_blocks,
            max_seqs=max_seqs,
            max_step_tokens=2048,
        ),
        dtype=_DTYPE,
        max_model_len=model.config.max_model_len,
        bytes_per_token=kv_bytes_per_token(model.config, _DTYPE),
        free_bytes=0,
        layer_groups=layer_groups(model.config),
    )
    kv = KVPool.allocate(
        model.config, config.num_pages, config.block_size, _DTYPE, DEVICE, impl="triton"
    )
    return Engine(model, config, kv)
