"""Small tokenizers of the two kinds that models have, written without any download."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>", "<|mark|>")
# Bytes of characters that a byte-level vocabulary cuts anywhere, some with text before them.
PARTS = ("Ġâ", "âĤ", "Ġthe", "Ġlamp", "ing", "ĊĊ", "ï¿", "ðŁ", "ï¿½")


def byte_level(folder: Path, added: Sequence[str] = (), special: Sequence[str] = SPECIAL) -> Path:
    """Write a vocabulary of all bytes, some parts of words, and added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: number for number, text in enumerate([*alphabet, *PARTS])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _save(backend, folder, added, special)


def sentencepiece(
    folder: Path, added: Sequence[str] = (), special: Sequence[str] = SPECIAL
) -> Path:
    """Write a vocabulary of letters, words behind a space, and a token for each byte."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += ["▁", "▁the", "▁lamp", "ing", "▁▁", "�", *map(chr, range(33, 127))]
    vocab = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return _save(backend, folder, added, ("<unk>", "<s>", "</s>", *special))


def _save(backend: Tokenizer, folder: Path, added: Sequence[str], special: Sequence[str]) -> Path:
    backend.add_special_tokens([AddedToken(text, special=True) for text in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
