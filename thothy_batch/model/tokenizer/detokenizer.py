"""Decodes token ids into whole characters, and says where a text may be decoded in parts.

Byte-level vocabularies (GPT-2, Qwen, Llama 3) spell every token in bytes, SentencePiece ones have a
token per byte for rare characters. In both, a character may need several tokens.
"""

import codecs
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from thothy_batch.records import TokenIds

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_MAX_INCOMPLETE = 3  # bytes: a character has at most four


class Detokenizer:
    """Decodes ids by a backend, whose own decoder writes U+FFFD for bytes that are no character."""

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend
        state = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
        kinds = set(_decoder_kinds(state))
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)

    def decode(self, token_ids: TokenIds, skip_special: bool = True) -> str:
        """Decode all ids; unknown ids give nothing."""
        return self._backend.decode(list(token_ids), skip_special_tokens=skip_special)

    def decode_whole(self, token_ids: TokenIds, skip_special: bool = True) -> str:
        """Decode all ids but a character at their end whose last bytes are missing."""
        if self._has_byte_tokens:
            num_bytes = incomplete_len(self._last_bytes(token_ids, skip_special))
            return self.decode(self._without_last(token_ids, num_bytes), skip_special)
        text = self.decode(token_ids, skip_special)
        if not self._is_byte_level or not text.endswith("\ufffd"):
            return text
        # The model may have written this character itself, in whole.
        is_half = incomplete_len(self._last_bytes(token_ids, skip_special))
        return text[:-1] if is_half else text

    def is_boundary(self, token_ids: TokenIds, skip_special: bool = True) -> bool:
        """Return whether the text of these ids is the same whatever ids follow."""
        last_bytes = self._last_bytes(token_ids, skip_special)
        # A run of byte tokens that turns out to be no text becomes U+FFFD as a whole.
        return not last_bytes if self._has_byte_tokens else not incomplete_len(last_bytes)

    def _without_last(self, token_ids: TokenIds, num_bytes: int) -> TokenIds:
        """Return the ids before the last byte tokens; between those stand ids without text."""
        end = len(token_ids)
        while num_bytes:
            end -= 1
            token = self._backend.id_to_token(token_ids[end])
            num_bytes -= token is not None and _is_byte_token(token)
        return token_ids[:end]

    def _skipped(self, skip_special: bool) -> frozenset[int]:
        return self._special_ids if skip_special else frozenset()

    def _last_bytes(self, token_ids: TokenIds, skip_special: bool) -> bytes:
        """Return the last bytes, as many as a character may lack; of byte tokens where those end
        the text."""
        found = b""
        for token in self._tokens_from_end(token_ids, self._skipped(skip_special)):
            if self._is_byte_level:
                piece = _byte_level_bytes(token)
            elif self._has_byte_tokens and _is_byte_token(token):
                piece = bytes([int(token[3:5], 16)])
            else:
                break
            found = piece + found
            if len(found) >= _MAX_INCOMPLETE:
                break
        return found

    def _tokens_from_end(self, token_ids: TokenIds, skipped: frozenset[int]) -> Iterator[str]:
        for token_id in reversed(token_ids):
            token = None if token_id in skipped else self._backend.id_to_token(token_id)
            if token is not None:
                yield token


def incomplete_len(data: bytes) -> int:
    """Return the number of bytes at the end that begin a character without completing it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(decoder.getstate()[0])


def _decoder_kinds(state: dict[str, Any]) -> Iterator[str]:
    yield str(state.get("type"))
    for part in state.get("decoders", ()):
        yield from _decoder_kinds(part)


def _is_byte_token(token: str) -> bool:
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return False
    return all(digit in "0123456789abcdefABCDEF" for digit in token[3:5])


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character: printable ones stand for themselves, as GPT-2 laid down.

    The others follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_ALPHABET = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    """Return the bytes of a token; an added token may have characters beyond the alphabet."""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()
