"""Reads tokenizer_config.json and the files beside it; every error names the file and the key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import read_json_if_there

TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_ADDED_TOKENS = "added_tokens.json"
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_ADDING = ("add_bos_token", "add_eos_token")
_SWITCHES = (*_ADDING, "split_special_tokens")
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The settings of a tokenizer; a key of a later file overrides that of an earlier one."""

    directory: Path
    values: dict[str, Any]
    files: dict[str, Path]  # of each key that another file than tokenizer_config.json gave

    @classmethod
    def read(cls, directory: Path) -> "TokenSettings":
        """Read the files that are there. Raises ModelError where one holds no JSON object."""
        values: dict[str, Any] = dict(read_json_if_there(directory / TOKENIZER_CONFIG))
        file = directory / _SPECIAL_TOKENS
        more = read_json_if_there(file)
        files = dict.fromkeys(more, file)
        # Damage shows even where the newer form of the settings makes these files unnecessary.
        cls(directory, more, files)._check_tokens()
        if "added_tokens_decoder" in values:
            files = {}
        else:
            values.update(more)
        settings = cls(directory, values, files)
        settings.plain_added_tokens()
        settings._check_numbers()
        return settings

    def _check_tokens(self) -> None:
        """Refuse a named token that is none, and lists of others; null and other keys are usual."""
        for key, value in self.values.items():
            if not key.endswith(("_token", "_tokens")) or key in _SWITCHES:
                continue
            if isinstance(value, list):
                self.token_list(key)
            elif isinstance(value, dict) and key.endswith("_tokens"):
                self.token_mapping(key)
            elif value is not None:
                self._content(key, value)

    def _check_numbers(self) -> None:
        """Refuse values of another type that only other programs read, and read otherwise."""
        for key in _ADDING:
            self.flag(key)
        value = self.values.get("model_max_length")
        # A float is usual: transformers writes 1e30 where there is no limit.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not is_number:
            raise self.fault("model_max_length", value, "a number")

    def text(self, key: str) -> str:
        """Return a text, "" where it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.fault(key, value, "a text")
        return value or ""

    def flag(self, key: str) -> bool | None:
        """Return true, false, or None where it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.fault(key, value, "true or false")
        return value

    def token(self, key: str, default: str | None = None) -> str | None:
        """Return the text of a named token, such as bos_token."""
        value = self.values.get(key, default)
        return None if value is None else self._content(key, value)

    def token_list(self, key: str) -> list[str]:
        """Return the texts of a list of tokens; a mapping of named tokens counts as no list."""
        value = self.values.get(key)
        if value is None or isinstance(value, dict):
            return []
        if not isinstance(value, list):
            raise self.fault(key, value, "a list of tokens")
        return [self._content(f"{key}[{i}]", entry) for i, entry in enumerate(value)]

    def token_mapping(self, key: str) -> dict[str, str]:
        """Return the texts of named tokens; a list counts as no mapping."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            return {}
        return {n: self._content(f"{key}.{n}", e) for n, e in value.items() if e is not None}

    def tokens_by_id(self, key: str) -> dict[int, dict[str, Any]] | None:
        """Return {id: {content, flags}}, None where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(key, value, "an object of tokens by id")
        return {
            _number(i, self.file_of(key), key): self._token_fields(f"{key}.{i}", entry)
            for i, entry in value.items()
        }

    def plain_added_tokens(self) -> dict[int, dict[str, Any]]:
        """Return the tokens of added_tokens.json, in the form of `tokens_by_id`."""
        file = self.directory / _ADDED_TOKENS
        found = {}
        for text, token_id in read_json_if_there(file).items():
            number = _number(token_id, file, repr(text))
            found[number] = {"content": _encodable(text, file, repr(text))}
        return found

    def fault(self, key: str, value: object, expected: str) -> ModelError:
        """Make the error of a value that is not what was expected."""
        return _fault(self.file_of(key), key, value, expected)

    def file_of(self, key: str) -> Path:
        """Return the file that gives a key, tokenizer_config.json where none does."""
        top = key.split("[")[0].split(".")[0]
        return self.files.get(top, self.directory / TOKENIZER_CONFIG)

    def _content(self, key: str, value: object) -> str:
        content = value.get("content") if isinstance(value, dict) else value
        if not isinstance(content, str):
            raise self.fault(key, value, "a token: a text, or an object with the text `content`")
        return _encodable(content, self.file_of(key), key)

    def _token_fields(self, key: str, entry: object) -> dict[str, Any]:
        """Return what a token is made with; other fields are left out."""
        if not isinstance(entry, dict):
            raise self.fault(key, entry, "an object with the text `content`")
        fields: dict[str, Any] = {"content": self._content(key, entry)}
        for flag in _TOKEN_FLAGS:
            value = entry.get(flag)
            if value is not None and not isinstance(value, bool):
                raise self.fault(f"{key}.{flag}", value, "true or false")
            if value is not None:
                fields[flag] = value
        return fields


def shown(value: object) -> str:
    """Return a value for a message, cut to a short length."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _fault(file: Path, key: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"{file}: {key} is {shown(value)}, not {expected}",
        hint="correct it, or fetch the file again",
    )


def _number(value: object, file: Path, key: str) -> int:
    """Return a token's id, in JSON's objects a text."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    if not (is_number or is_digits):
        raise _fault(file, key, value, "a token id")
    return int(value)  # type: ignore[call-overload,no-any-return]


def _encodable(text: str, file: Path, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _fault(file, key, text, "a text: it holds half of a surrogate pair") from None
    return text
