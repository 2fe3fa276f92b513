"""Describes a model before its weights are loaded: enough to plan, key and tokenise."""

from dataclasses import dataclass

from thothy_batch.engine.core.config import EngineConfig, resolve_config, step_tokens
from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.limits import Limits
from thothy_batch.engine.cost.cost_model import ModelWork, model_work
from thothy_batch.engine.fake_model import FAKE_BYTES_PER_TOKEN, ByteTokenizer, FakeKnobs, is_fake
from thothy_batch.model import check_quantization, model_fingerprint
from thothy_batch.model.config import (
    kv_bytes_per_token,
    layer_groups,
    locate_supported,
    resolve_dtype,
)
from thothy_batch.model.tokenizer import Tokenizer, load_tokenizer
from thothy_batch.records import EngineSpec, LayerGroup, ModelSpec

AnyTokenizer = Tokenizer | ByteTokenizer


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model that do not need its weights."""

    name: str
    commit: str | None
    dtype: str
    fingerprint: str
    max_model_len: int  # tokens, prompt and output together
    vocab_size: int
    kv_bytes_per_token: int
    tokenizer: AnyTokenizer | None  # None: only prompts of token ids can be run
    layer_groups: tuple[LayerGroup, ...] = (LayerGroup((0,)),)
    work: ModelWork | None = None  # None: a model that computes nothing
    quantization: str = "none"
    short_rope_len: int | None = None  # longest context of the first of two sets of rope factors

    def limits(self, spec: EngineSpec) -> Limits:
        """The limits that a request must fit, as far as they are known before the engine starts."""
        layout = KVLayout(self.layer_groups, spec.block_size)
        return Limits(self.max_model_len, layout, step_tokens(spec), spec.num_blocks)

    def engine_config(self, spec: EngineSpec, free_bytes: int) -> EngineConfig:
        """The settings that an engine would resolve with this much free memory, in bytes.

        Raises ModelError and EngineError as the engine would.
        """
        return resolve_config(
            spec,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            bytes_per_token=self.kv_bytes_per_token,
            free_bytes=free_bytes,
            layer_groups=self.layer_groups,
            short_rope_len=self.short_rope_len,
        )


def model_info(spec: EngineSpec, *, need_weights: bool = True) -> ModelInfo:
    """Locate and describe the model of `spec`, a result of `resolve_spec`. Raises ModelError when
    it cannot be used.

    Without `need_weights` only the small files of a model on the hub are downloaded.
    """
    model = spec.model
    if is_fake(model.id):
        return ModelInfo(
            name=model.id,
            commit=None,
            dtype="float32",
            fingerprint=f"{model.id}@1",
            max_model_len=FakeKnobs.of(model.id).context,
            vocab_size=256,
            kv_bytes_per_token=FAKE_BYTES_PER_TOKEN,
            tokenizer=ByteTokenizer(),
        )
    check_quantization(model, device=spec.device, impl=spec.impl)
    files, config = locate_supported(model, need_weights=need_weights)
    dtype = resolve_dtype(config, model, spec.device)
    return ModelInfo(
        name=files.name,
        commit=files.commit,
        dtype=dtype,
        fingerprint=model_fingerprint(files, config, dtype, model),
        max_model_len=config.max_model_len,
        vocab_size=config.vocab_size,
        kv_bytes_per_token=kv_bytes_per_token(config, dtype),
        tokenizer=load_tokenizer(files.directory),
        layer_groups=layer_groups(config),
        work=model_work(config, dtype, model.quantization),
        quantization=model.quantization,
        short_rope_len=config.short_rope_len,
    )


def check_small_files(model: ModelSpec) -> None:
    """Read all but the weights of a model, without torch. Raises ModelError for an unusable one."""
    if not is_fake(model.id):
        files, _ = locate_supported(model, need_weights=False)
        load_tokenizer(files.directory)
