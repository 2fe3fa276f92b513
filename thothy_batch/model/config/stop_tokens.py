"""The ids that end a text, as config.json and generation_config.json list them."""

from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import CONFIG, read_json_if_there


def stop_token_ids(directory: Path) -> tuple[int, ...]:
    """Return the end-of-text ids of config.json and generation_config.json, ascending."""
    ids: set[int] = set()
    for name in (CONFIG, "generation_config.json"):
        raw = read_json_if_there(directory / name)
        text = raw.get("text_config")  # of multimodal models
        for section in (raw, text if isinstance(text, dict) else {}):
            value = section.get("eos_token_id")
            listed = value if isinstance(value, list) else [] if value is None else [value]
            numbers = [v for v in listed if isinstance(v, int) and not isinstance(v, bool)]
            if len(numbers) < len(listed):
                raise ModelError(
                    f"{directory / name}: eos_token_id is {value!r}, not a token id or a list",
                    hint="correct it, or fetch the file again",
                )
            ids.update(numbers)
    return tuple(sorted(ids))
