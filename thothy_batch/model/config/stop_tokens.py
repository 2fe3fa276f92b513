"""The ids that end a text, as config.json and generation_config.json list them."""

from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import CONFIG, read_json_if_there

_KEY, _TEXT_CONFIG = "eos_token_id", "text_config"  # the latter of multimodal models


def stop_token_ids(directory: Path) -> tuple[int, ...]:
    """Return the end-of-text ids of config.json and generation_config.json, ascending."""
    return tuple(sorted(stop_token_places(directory)))


def stop_token_places(directory: Path) -> dict[int, str]:
    """Return the end-of-text ids, each with the first file and key that names it."""
    places: dict[int, str] = {}
    for name in (CONFIG, "generation_config.json"):
        raw = read_json_if_there(directory / name)
        text = raw.get(_TEXT_CONFIG)
        for section, key in ((raw, _KEY), (text, f"{_TEXT_CONFIG}.{_KEY}")):
            value = section.get(_KEY) if isinstance(section, dict) else None
            where = f"{directory / name}: {key}"
            for token_id in _listed(value, where):
                places.setdefault(token_id, where)
    return places


def _listed(value: object, where: str) -> list[int]:
    """Return one id or a list of them as a list; null is none."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    ids = [v for v in listed if isinstance(v, int) and not isinstance(v, bool) and v >= 0]
    if len(ids) < len(listed):
        raise ModelError(
            f"{where} is {value!r}, not a token id (0 or more) or a list of them",
            hint="correct it, or fetch the file again",
        )
    return ids
