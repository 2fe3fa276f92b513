"""Errors of YAML text, each with the index of the character at which it stands."""


class YamlError(Exception):
    """The text is not YAML 1.2."""

    def __init__(self, message: str, index: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.index = index
        self.hint = hint


class UnsupportedYamlError(YamlError):
    """The text is YAML, but holds what no manifest has a use for."""
