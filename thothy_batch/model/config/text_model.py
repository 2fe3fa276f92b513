"""Finds the text model of a config.json: its family, and its settings with defaults."""

from thothy_batch.errors import ModelError
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.families import FAMILIES, WRAPPERS, family_of
from thothy_batch.model.config.family import Family, Wrapper
from thothy_batch.model.config.left_out import REASONS

SUPPORTED_ARCHITECTURES = (*FAMILIES, *WRAPPERS)


def supported_architecture(reader: ConfigReader) -> str:
    """Return the first of `architectures`.

    Raises ModelError if it is unsupported, with the reason where it is known, and with the list.
    """
    names = reader.raw.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    if first in SUPPORTED_ARCHITECTURES:
        return first
    shown = first or f"model_type {reader.raw.get('model_type')!r}"
    because = f": {REASONS[first]}" if first in REASONS else ""
    raise ModelError(
        f"{reader.where}: architecture {shown} is not supported{because}",
        hint=f"supported: {', '.join(SUPPORTED_ARCHITECTURES)}",
    )


def text_model(top: ConfigReader, architecture: str) -> tuple[Family, ConfigReader]:
    """Return family and settings of the text model, with the family's defaults for missing keys.

    Raises ModelError for a multimodal model whose text model is missing or not supported.
    """
    wrapper = WRAPPERS.get(architecture)
    if wrapper is None:
        family = FAMILIES[architecture]
        return family, ConfigReader(family.defaults | top.raw, top.where)
    text = top.raw.get("text_config", {} if wrapper.may_be_flat else None)
    if not isinstance(text, dict):
        raise ModelError(f"{top.where}: text_config is missing: the text model's settings")
    family = family_of(architecture, _text_type(text, wrapper, top.where))
    raw = wrapper.defaults | family.defaults | top.raw | text
    if (is_tied := top.raw.get("tie_word_embeddings")) is not None:
        raw["tie_word_embeddings"] = is_tied  # the head belongs to the whole model
    return family, ConfigReader(raw, top.where)


def _text_type(text: dict[str, object], wrapper: Wrapper, where: str) -> str:
    found = str(text.get("model_type") or next(iter(wrapper.text_types)))
    if found not in wrapper.text_types:
        raise ModelError(
            f"{where}: text_config has the model_type {found!r}, which is not supported here",
            hint=f"supported: {', '.join(wrapper.text_types)}",
        )
    return wrapper.text_types[found]
