"""Reads typed values from a JSON configuration; every error names the file and the key."""

from thothy_batch.errors import ModelError


class ConfigReader:
    """Reads one JSON object. null counts as missing; missing without a default is an error."""

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.raw = raw
        self.where = where

    def count(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            shown = "is missing" if value is None else f"is {value!r}, not a positive whole number"
            raise ModelError(f"{self.where}: {key} {shown}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            shown = "is missing" if value is None else f"is {value!r}, not a number"
            raise ModelError(f"{self.where}: {key} {shown}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise ModelError(f"{self.where}: {key} is {value!r}, not true or false")
        return bool(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.raw.get(key)
        if not isinstance(value, list) or not all(_is_positive(each) for each in value):
            shown = "is missing" if value is None else "is not a list of positive numbers"
            raise ModelError(f"{self.where}: {key} {shown}")
        return tuple(float(each) for each in value)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
