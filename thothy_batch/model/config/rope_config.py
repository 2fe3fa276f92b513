"""Reads rotary position settings from both forms of config.json."""

import math
from dataclasses import dataclass, replace

from thothy_batch.errors import ModelError
from thothy_batch.model.config.config_reader import ConfigReader
from thothy_batch.model.config.family import Family
from thothy_batch.model.config.hashed_settings import later

SUPPORTED_ROPE = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_DEFAULT_THETA = 10_000.0  # if neither config.json nor the family sets one
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Base, type of scaling and its parameters; those unused by the type stay unset."""

    theta: float
    kind: str = "default"  # one of SUPPORTED_ROPE; "none": no rotation
    factor: float = 1.0
    attention_factor: float = 1.0  # multiplies cos and sin (yarn, longrope)
    original_max_positions: int = 0  # llama3, yarn, longrope
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: whole dimensions bound the ramp
    rotated_share: float = later(1.0)  # of a head's elements, from its beginning
    # longrope: divisors of the frequencies, in contexts of up to original_max_positions and others
    short_factors: tuple[float, ...] = later(())
    long_factors: tuple[float, ...] = later(())


NO_ROPE = RopeConfig(1.0, "none")


def parse_rope(
    raw: dict[str, object], max_positions: int, where: str, family: Family | None = None
) -> RopeConfig:
    """Read `rope_parameters` (transformers 5), or the older `rope_theta` and `rope_scaling`.

    Raises ModelError, by name, for an unsupported type and for missing parameters.
    """
    section = _section(raw.get("rope_scaling") or raw.get("rope_parameters"), where)
    if section and all(isinstance(value, dict) for value in section.values()):
        raise ModelError(f"{where}: rope settings that differ by layer are not supported")
    rope = _parse_section(section, raw, "rope_theta", max_positions, where, family)
    return replace(rope, rotated_share=_rotated_share(section, raw, where, family))


def parse_ropes_by_layer_type(
    raw: dict[str, object], max_positions: int, where: str
) -> tuple[RopeConfig, RopeConfig]:
    """Read the settings of full and of sliding layers (Gemma 3), in both forms.

    The older form scales only the full layers and has `rope_local_base_freq` for the others.
    Raises ModelError like `parse_rope`.
    """
    nested = _section(raw.get("rope_parameters"), where)
    for layer_type in nested:
        if layer_type not in _LAYER_TYPES:
            raise ModelError(
                f"{where}: rope_parameters has {layer_type!r}, not one of {', '.join(_LAYER_TYPES)}"
            )
    full, sliding = (_section(nested.get(layer_type), where) for layer_type in _LAYER_TYPES)
    full = full | _section(raw.get("rope_scaling"), where)
    if "longrope" in (sliding.get("rope_type"), sliding.get("type")):
        raise ModelError(f"{where}: rope type 'longrope' of sliding layers is not supported")
    return (
        _parse_section(full, raw, "rope_theta", max_positions, where, None),
        _parse_section(sliding, raw, "rope_local_base_freq", max_positions, where, None),
    )


def _section(value: object, where: str) -> dict[str, object]:
    """Return the JSON object `value`, or an empty one if it is missing."""
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"{where}: the rope settings are not a JSON object")
    return value or {}


def _parse_section(
    section: dict[str, object],
    raw: dict[str, object],
    theta_key: str,
    max_positions: int,
    where: str,
    family: Family | None,
) -> RopeConfig:
    """Parse one set of settings. `theta_key`: the base's key in `raw` if not in the section."""
    reader = ConfigReader(section, f"{where}: rope settings")
    kind = str(section.get("rope_type") or section.get("type") or "default")
    if family is not None:
        kind = family.rope_aliases.get(kind, kind)
    if kind not in SUPPORTED_ROPE:
        raise ModelError(
            f"{where}: rope type {kind!r} is not supported",
            hint=f"supported: {', '.join(SUPPORTED_ROPE)}",
        )
    theta = reader.number("rope_theta", ConfigReader(raw, where).number(theta_key, _DEFAULT_THETA))
    original = _original_positions(raw, reader, max_positions)
    if kind == "dynamic":  # scales only beyond max_positions, where no context of ours ends
        reader.number("factor")
    if kind == "linear":
        return RopeConfig(theta, kind, factor=reader.number("factor"))
    if kind == "llama3":
        return _llama3(reader, theta, original)
    if kind == "yarn":
        return _yarn(reader, theta, original, max_positions)
    if kind == "longrope":
        return _longrope(reader, theta, original, max_positions)
    return RopeConfig(theta)


def _rotated_share(
    section: dict[str, object], raw: dict[str, object], where: str, family: Family | None
) -> float:
    """Return partial_rotary_factor. Raises ModelError where the family rotates whole heads."""
    key = "partial_rotary_factor"
    share = ConfigReader({key: section.get(key, raw.get(key))}, where).number(key, 1.0)
    is_partial = family is not None and family.is_partly_rotated
    if share != 1.0 and not (is_partial and 0 < share < 1):
        raise ModelError(f"{where}: {key} {share} is not supported, only 1.0")
    return share


def _original_positions(raw: dict[str, object], reader: ConfigReader, max_positions: int) -> int:
    """Return the originally trained positions: beside the rope settings, in them, or all."""
    beside = raw.get("original_max_position_embeddings")
    if isinstance(beside, int) and not isinstance(beside, bool):
        return beside
    return reader.count("original_max_position_embeddings", max_positions)


def _llama3(reader: ConfigReader, theta: float, original: int) -> RopeConfig:
    return RopeConfig(
        theta,
        "llama3",
        factor=reader.number("factor"),
        original_max_positions=original,
        low_freq_factor=reader.number("low_freq_factor"),
        high_freq_factor=reader.number("high_freq_factor"),
    )


def _yarn(reader: ConfigReader, theta: float, original: int, max_positions: int) -> RopeConfig:
    factor = reader.number("factor", max_positions / original)
    return RopeConfig(
        theta,
        "yarn",
        factor=factor,
        attention_factor=_yarn_attention_factor(reader, factor),
        original_max_positions=original,
        beta_fast=reader.number("beta_fast", 32.0) or 32.0,
        beta_slow=reader.number("beta_slow", 1.0) or 1.0,
        truncate=bool(reader.raw.get("truncate", True)),
    )


def _longrope(reader: ConfigReader, theta: float, original: int, max_positions: int) -> RopeConfig:
    factor = reader.number("factor", max_positions / original)
    default = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(max(original, 2)))
    return RopeConfig(
        theta,
        "longrope",
        factor=factor,
        attention_factor=reader.number("attention_factor", default),
        original_max_positions=original,
        short_factors=reader.numbers("short_factor"),
        long_factors=reader.numbers("long_factor"),
    )


def _yarn_attention_factor(reader: ConfigReader, factor: float) -> float:
    """Return the factor of cos and sin: as given, or 0.1 ln(factor) + 1 (YaRN, section 3.4)."""
    if reader.raw.get("attention_factor") is not None:
        return reader.number("attention_factor")
    mscale = reader.number("mscale", 0.0)
    mscale_all = reader.number("mscale_all_dim", 0.0)
    if mscale and mscale_all:
        return _mscale(factor, mscale) / _mscale(factor, mscale_all)
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
