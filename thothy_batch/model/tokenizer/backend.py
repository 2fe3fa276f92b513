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
from thothy_batch.model.checkpoint.files import CONFIG, read_json_if_there

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
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
    """A ready backend, the named special tokens, and the raw tokenizer_config.json."""

    backend: Backend
    named_tokens: dict[str, str]  # "bos_token" → "<s>"; available to chat templates
    settings: dict[str, Any]


def load_parts(directory: Path) -> TokenizerParts:
    """Read tokenizer.json and its companions. ModelError names a missing or broken file."""
    file = directory / TOKENIZER
    if not file.is_file():
        raise ModelError(
            f"{file} is missing",
            hint="save it with transformers: "
            "AutoTokenizer.from_pretrained(model).save_pretrained(directory)",
        )
    settings = _settings(directory)
    try:
        text = file.read_text(encoding="utf-8")
        if _is_sentencepiece_llama(directory, settings, text):
            text = json.dumps(_with_llama_spaces(json.loads(text), settings))
        backend = Backend.from_str(text)
    except Exception as error:  # the library raises bare Exception for an unusable file
        raise ModelError(f"{file} cannot be used: {error}", hint="fetch the file again") from error
    backend.no_truncation()
    backend.no_padding()
    named = _named_tokens(settings)
    _add_tokens(backend, directory, settings, named)
    return TokenizerParts(backend, named, settings)


def _settings(directory: Path) -> dict[str, Any]:
    settings: dict[str, Any] = dict(read_json_if_there(directory / TOKENIZER_CONFIG))
    if "added_tokens_decoder" not in settings:
        settings.update(read_json_if_there(directory / "special_tokens_map.json"))
    return settings


def _tokenizer_class(settings: dict[str, Any]) -> str:
    return str(settings.get("tokenizer_class") or "").removesuffix("Fast")


def _is_sentencepiece_llama(directory: Path, settings: dict[str, Any], text: str) -> bool:
    """True for SentencePiece files; Llama 3 and others name the same class for byte-level ones."""
    if _tokenizer_class(settings) != "LlamaTokenizer" or '"ByteLevel"' in text:
        return False
    return read_json_if_there(directory / CONFIG).get("model_type") not in _FILE_AS_IT_IS


def _with_llama_spaces(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Apply the space rule of the settings `add_prefix_space` and `legacy`.

    Files of this family often contain the old rule (a space before every piece between special
    tokens); transformers uses "only before the first" unless the settings say `legacy: true`.
    """
    prefix = settings.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = ("always" if settings.get("legacy", False) else "first") if prefix else "never"
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


def _named_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Return bos_token and every other `..._token` that the settings name."""
    defaults = {"LlamaTokenizer": _LLAMA_NAMES, "Qwen2Tokenizer": _QWEN_NAMES}
    values: dict[str, Any] = {}
    for key in _NAMED:
        values[key] = settings.get(key, defaults.get(_tokenizer_class(settings), {}).get(key))
    for key, value in settings.items():
        if key.endswith("_token") and key not in _NAMED and isinstance(value, (str, dict)):
            values[key] = value
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, dict):
        values.update(extra)
    return {key: _content(value) for key, value in values.items() if value is not None}


def _add_tokens(
    backend: Backend,
    directory: Path,
    settings: dict[str, Any],
    named: dict[str, str],
) -> None:
    """Register the tokens of the settings; named ones become special."""
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        by_id = {int(key): dict(value) for key, value in listed.items()}
    else:
        plain = read_json_if_there(directory / "added_tokens.json")
        by_id = {int(str(i)): {"content": text} for text, i in plain.items()}
        for token_id, token in backend.get_added_tokens_decoder().items():
            by_id[token_id] = {key: getattr(token, key) for key in _TOKEN_FIELDS}
    special = set(named.values())
    tokens = []
    for _, entry in sorted(by_id.items()):
        entry.pop("__type", None)
        entry["special"] = bool(entry.get("special")) or entry["content"] in special
        tokens.append(AddedToken(**entry))
    known = {token.content for token in tokens}
    known.update(token.content for token in backend.get_added_tokens_decoder().values())
    for text in [*named.values(), *_extra_tokens(settings)]:
        if text not in known:
            tokens.append(AddedToken(text, special=True))
            known.add(text)
    if tokens:
        backend.add_tokens(tokens)


def _extra_tokens(settings: dict[str, Any]) -> list[str]:
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    return [_content(value) for value in extra] if isinstance(extra, list) else []


def _content(value: object) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value)
