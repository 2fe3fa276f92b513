"""The settings of a configuration that a fingerprint hashes."""

from dataclasses import field, fields, is_dataclass
from typing import Any


def later(default: object) -> Any:
    """Declare a setting that came later: at its default no fingerprint contains it.

    So models that could be loaded before it existed keep their fingerprints and their results.
    """
    return field(default=default, metadata={"later": True})


def hashed_settings(config: object) -> dict[str, object]:
    """Return name → value of a dataclass and of those in it, without `later` ones at defaults."""
    assert is_dataclass(config)
    settings: dict[str, object] = {}
    for setting in fields(config):
        value = getattr(config, setting.name)
        if "later" not in setting.metadata or value != setting.default:
            settings[setting.name] = hashed_settings(value) if is_dataclass(value) else value
    return settings
