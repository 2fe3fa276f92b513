"""Decides which layers have a sliding window, its size, and which layers have no rope. No torch.

With a window of W tokens the query at position p sees positions p - W + 1 .. p, as in transformers
(checked in the tests).
"""

from thothy_batch.errors import ModelError
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.family import Family

_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


def sliding_layers(reader: ConfigReader, family: Family, num_layers: int) -> tuple[bool, ...]:
    """Return, by layer, whether config.json calls it sliding.

    A sliding layer can have a window that covers the whole context: see `window_size`. Raises
    ModelError for other layer types.
    """
    if family.sliding == "never" or (
        family.unrotated == "full" and reader.raw.get("sliding_window") is None
    ):
        return (False,) * num_layers
    listed = reader.raw.get("layer_types")
    if listed is not None:
        return _listed(listed, num_layers, reader.where)
    if family.sliding == "unrotated":
        is_used = reader.flag("use_sliding_window")
        unrotated = set(unrotated_layers(reader, family, (False,) * num_layers))
        return tuple(is_used and layer in unrotated for layer in range(num_layers))
    if family.sliding == "pattern":
        pattern = reader.count("sliding_window_pattern")
        return tuple((layer + 1) % pattern != 0 for layer in range(num_layers))
    first = int(reader.number("max_window_layers")) if family.sliding == "upper" else 0
    return tuple(layer >= first for layer in range(num_layers))


def window_size(reader: ConfigReader, family: Family, max_model_len: int) -> int | None:
    """Return the tokens that a query of a sliding layer sees; None if it sees all."""
    if family.sliding == "never" or reader.raw.get("sliding_window") is None:
        return None
    if family.sliding == "upper" and not reader.flag("use_sliding_window"):
        return None
    window = reader.count("sliding_window")
    return window if window < max_model_len else None


def unrotated_layers(
    reader: ConfigReader, family: Family, sliding: tuple[bool, ...]
) -> tuple[int, ...]:
    """Return the layers without rope. `sliding`: whether config.json calls a layer sliding."""
    if family.unrotated == "never":
        return ()
    if family.unrotated == "full":
        has_window = reader.raw.get("sliding_window") is not None
        return tuple(i for i, slides in enumerate(sliding) if has_window and not slides)
    listed = reader.raw.get("no_rope_layers")
    if listed is None:
        interval = reader.count("no_rope_layer_interval")
        return tuple(range(interval - 1, len(sliding), interval))
    if (
        not isinstance(listed, list)
        or len(listed) < len(sliding)
        or not set(map(str, listed)) <= {"0", "1"}
    ):
        raise ModelError(
            f"{reader.where}: no_rope_layers is not a list of 0 and 1 for {len(sliding)} layers"
        )
    return tuple(i for i in range(len(sliding)) if not listed[i])


def _listed(listed: object, num_layers: int, where: str) -> tuple[bool, ...]:
    if not isinstance(listed, list) or len(listed) != num_layers:
        shown = f"{len(listed)} entries" if isinstance(listed, list) else repr(listed)
        raise ModelError(f"{where}: layer_types has {shown} for {num_layers} layers")
    for name in listed:
        if not isinstance(name, str) or name not in _LAYER_TYPES:
            raise ModelError(
                f"{where}: layer type {name!r} is not supported",
                hint=f"supported: {', '.join(_LAYER_TYPES)}",
            )
    return tuple(_LAYER_TYPES[name] for name in listed)
