"""Builds the `tokenizers` object of a checkpoint as transformers does, without importing it.

Importing transformers' AutoTokenizer imports torch and takes seconds, but it changes a
tokenizer.json little: named special tokens of tokenizer_config.json become added tokens, and
Llama's SentencePiece tokenizers take their leading-space rule from the configuration instead of
the file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import (
    CONFIG,
    is_there,
    read_json_if_there,
    read_json_text,
)
from thothy_batch.model.tokenizer.token_settings import TokenSettings

TOKENIZER = "tokenizer.json"
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_LLAMA_NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_QWEN_NAMES = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
# Families whose file is used unchanged, whatever class the checkpoint names.
_FILE_AS_IT_IS = ("mistral", "mistral3", "ministral", "ministral3", "mixtral")


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """A ready backend, the named special tokens, and the raw settings."""

    backend: Backend
    named_tokens: dict[str, str]  # "bos_token" → "<s>"; available to chat templates
    settings: dict[str, Any]
    eos_file: Path  # the file that names the end token


def load_parts(directory: Path) -> TokenizerParts:
    """Read tokenizer.json and its companions. ModelError names a missing or broken file."""
    file = directory / TOKENIZER
    if not is_there(file):
        raise ModelError(
            f"{file} is missing",
            hint="save it with transformers: "
            "AutoTokenizer.from_pretrained(model).save_pretrained(directory)",
        )
    settings = TokenSettings.read(directory)
    backend = _backend(file, settings)
    named = _named_tokens(settings)
    _add_tokens(backend, settings, named)
    return TokenizerParts(backend, named, settings.values, settings.file_of("eos_token"))


def _backend(file: Path, settings: TokenSettings) -> Backend:
    is_llama, with_spaces = _is_llama(settings), _llama_spaces(settings)
    text = read_json_text(file)
    try:
        # Llama 3 and others name the same class for byte-level files.
        if is_llama and '"ByteLevel"' not in text:
            text = json.dumps(_with_llama_spaces(json.loads(text), *with_spaces))
        backend = Backend.from_str(text)
        backend.encode("a\n")  # some files are read and then encode nothing
    except Exception as error:  # the library raises bare Exception for an unusable file
        raise _unusable(file, error) from error
    except BaseException as error:  # a panic of the library is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise _unusable(file, error) from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _unusable(file: Path, error: BaseException) -> ModelError:
    return ModelError(f"{file} cannot be used: {error}", hint="fetch the file again")


def _tokenizer_class(settings: TokenSettings) -> str:
    return settings.text("tokenizer_class").removesuffix("Fast")


def _is_llama(settings: TokenSettings) -> bool:
    if _tokenizer_class(settings) != "LlamaTokenizer":
        return False
    config = read_json_if_there(settings.directory / CONFIG)
    return config.get("model_type") not in _FILE_AS_IT_IS


def _llama_spaces(settings: TokenSettings) -> tuple[bool, bool]:
    """Return the settings `add_prefix_space` and `legacy`, with transformers' defaults."""
    prefix = settings.flag("add_prefix_space")
    return prefix is None or prefix, bool(settings.flag("legacy"))


def _with_llama_spaces(content: dict[str, Any], prefix: bool, legacy: bool) -> dict[str, Any]:
    """Apply the space rule of the settings.

    Files of this family often contain the old rule (a space before every piece between special
    tokens); transformers uses "only before the first" unless the settings say `legacy: true`.
    """
    scheme = ("always" if legacy else "first") if prefix else "never"
    decoders: list[dict[str, object]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    if content["model"].get("type") != "BPE":
        return content
    return content | {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": scheme,
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": content["model"]
        | {"unk_token": None, "dropout": None, "fuse_unk": True, "byte_fallback": True},
    }


def _named_tokens(settings: TokenSettings) -> dict[str, str]:
    """Return bos_token and every other `..._token` that the settings name."""
    defaults = {"LlamaTokenizer": _LLAMA_NAMES, "Qwen2Tokenizer": _QWEN_NAMES}
    default = defaults.get(_tokenizer_class(settings), {})
    named = {key: settings.token(key, default.get(key)) for key in _NAMED}
    for key, value in settings.values.items():
        if key.endswith("_token") and key not in _NAMED and isinstance(value, (str, dict)):
            named[key] = settings.token(key)
    found = {key: text for key, text in named.items() if text is not None}
    return found | settings.token_mapping("extra_special_tokens")


def _add_tokens(backend: Backend, settings: TokenSettings, named: dict[str, str]) -> None:
    """Register the tokens of the settings; named ones become special."""
    by_id = settings.tokens_by_id("added_tokens_decoder")
    if by_id is None:
        by_id = settings.plain_added_tokens()
        for token_id, token in backend.get_added_tokens_decoder().items():
            by_id[token_id] = {key: getattr(token, key) for key in _TOKEN_FIELDS}
    special = set(named.values())
    tokens = []
    for _, entry in sorted(by_id.items()):
        is_special = bool(entry.get("special")) or entry["content"] in special
        tokens.append(AddedToken(**entry | {"special": is_special}))
    known = {token.content for token in tokens}
    known.update(token.content for token in backend.get_added_tokens_decoder().values())
    for text in [*named.values(), *_extra_tokens(settings)]:
        if text not in known:
            tokens.append(AddedToken(text, special=True))
            known.add(text)
    if tokens:
        backend.add_tokens(tokens)


def _extra_tokens(settings: TokenSettings) -> list[str]:
    key = "extra_special_tokens"
    if not settings.values.get(key):
        key = "additional_special_tokens"
    return settings.token_list(key)
