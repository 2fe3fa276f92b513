"""Locates a model that is supported; another is refused before its weights are downloaded."""

from thothy_batch.model.checkpoint.locate import ModelFiles, locate_model
from thothy_batch.model.config.model_config import ModelConfig, load_config
from thothy_batch.records import ModelSpec


def locate_supported(
    spec: ModelSpec, *, need_weights: bool = True
) -> tuple[ModelFiles, ModelConfig]:
    """Find the files of `spec` and read its configuration. Raises ModelError as both do."""
    files = locate_model(spec, need_weights=False)
    config = load_config(files.directory)
    if not need_weights or spec.random_weights:
        return files, config
    files = locate_model(spec)
    return files, load_config(files.directory)  # the weights tell a dtype that it leaves out
