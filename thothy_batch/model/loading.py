"""Loads the model of a manifest into a decoder that is ready to compute."""

from dataclasses import dataclass

from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.model_config import ModelConfig, resolve_dtype
from thothy_batch.model.config.supported_model import locate_supported
from thothy_batch.model.decoder import Decoder
from thothy_batch.model.host_memory import trim_heap
from thothy_batch.model.quantization import check_quantization
from thothy_batch.model.tokenizer.tokenizer import Tokenizer, load_tokenizer
from thothy_batch.model.weight_source import load_weights, random_weights
from thothy_batch.records import ModelSpec


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. `tokenizer` is None if the checkpoint has none."""

    config: ModelConfig
    decoder: Decoder
    tokenizer: Tokenizer | None
    files: ModelFiles
    dtype: str  # "float32" | "bfloat16"
    quantization: str = "none"

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Return the ids that end a completion, from the configurations and the tokenizer."""
        ids = frozenset(self.config.stop_token_ids)
        return ids if self.tokenizer is None else ids | self.tokenizer.stop_token_ids


def load_decoder(
    spec: ModelSpec, *, device: str, impl: str, attention_impl: str | None = None
) -> LoadedModel:
    """Find, read and pack a model. `attention_impl`: if different from `impl`.

    Raises ModelError, with the file, for an unusable checkpoint.
    """
    check_quantization(spec, device=device, impl=impl)
    files, config = locate_supported(spec)
    dtype = resolve_dtype(config, spec, device)
    tokenizer = load_tokenizer(files.directory)
    if spec.random_weights:
        weights = random_weights(config, dtype, spec.seed, device)
    else:
        weights = load_weights(files, config, dtype, device)
    decoder = Decoder(config, weights, impl, attention_impl, spec.quantization)
    trim_heap()
    return LoadedModel(config, decoder, tokenizer, files, dtype, spec.quantization)
