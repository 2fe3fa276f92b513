"""Stop strings: found as a completion grows, and cut off from its text."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from thothy_batch.records import TokenIds


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def special_token_ids(self) -> Mapping[str, int]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode_whole(self, token_ids: TokenIds, skip_special: bool = True) -> str: ...

    def is_boundary(self, token_ids: TokenIds, skip_special: bool = True) -> bool: ...


class StopStrings:
    """The stop strings of a request, as a decoder sees them.

    A special token has no text. A stop string that is one is a stop id; one that has a special
    token among other characters is searched in the text that shows special tokens.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str]) -> None:
        special = decoder.special_token_ids
        self.token_ids = frozenset(special[text] for text in stop if text in special)
        mixed = [s for s in stop if s not in special and any(text in s for text in special)]
        self._decoder = decoder
        self._special_ids = frozenset(special.values())
        self._visible = tuple(stop)
        self._mixed = tuple(mixed)
        self._anchor = _Anchor.of(decoder)

    def searches(self) -> list["StopStringSearch"]:
        """Start the searches in one completion."""
        found = [StopStringSearch(self._decoder, self._anchor, self._visible, skip_special=True)]
        if self._mixed:
            more = StopStringSearch(self._decoder, self._anchor, self._mixed, skip_special=False)
            found.append(more)
        return found

    def cut(self, token_ids: TokenIds) -> str:
        """Return the text of a completion before its first stop string."""
        text = self._decoder.decode_whole(token_ids)
        at = _first(self._visible, text)
        text = text if at is None else text[:at]
        if self._mixed:
            written = self._decoder.decode_whole(token_ids, skip_special=False)
            at = _first(self._mixed, written)
            if at is not None:
                text = min(text, self._visible_before(token_ids, written, at), key=len)
        return text

    def _visible_before(self, token_ids: TokenIds, written: str, at: int) -> str:
        """Return the visible text of the first `at` characters of the one with special tokens."""
        num = len(token_ids)
        while len(before := self._decoder.decode_whole(token_ids[:num], skip_special=False)) > at:
            num -= 1
        text = self._decoder.decode_whole(token_ids[:num])
        is_inside = num < len(token_ids) and token_ids[num] not in self._special_ids
        return text + written[len(before) : at] if is_inside else text


class _Anchor:
    """A token with text of its own, before which a decoder drops the spaces that begin a text."""

    def __init__(self, token_ids: list[int], length: int) -> None:
        self.token_ids, self.length = token_ids, length

    @classmethod
    def of(cls, decoder: Decoder) -> "_Anchor | None":
        """Return the anchor; None for a vocabulary without a plain letter."""
        ids = decoder.encode("a")[-1:]
        text = decoder.decode_whole(ids) if ids and decoder.is_boundary(ids) else ""
        return cls(ids, len(text)) if text else None


class StopStringSearch:
    """A search in the text of a completion as it grows.

    The text is that of decoding all ids at once. Only those since the last boundary are decoded
    again, behind an anchor: the first text of a completion may lose a space that others keep.
    """

    def __init__(
        self,
        decoder: Decoder,
        anchor: _Anchor | None,
        stop: tuple[str, ...],
        *,
        skip_special: bool,
    ) -> None:
        self._decoder = decoder
        self._anchor = anchor
        self._stop = stop
        self._skip_special = skip_special
        self._overlap = max(map(len, stop)) - 1
        self._ids: list[int] = []  # since the last boundary
        self._known = ""  # the end of the text before it, as much as a stop string may begin in
        self._is_first = True  # no text before it

    def add(self, token_id: int) -> bool:
        """Add a token; return whether the text now contains a stop string."""
        self._ids.append(token_id)
        text = self._known + self._decoded()
        if _first(self._stop, text) is not None:
            return True
        if text and self._anchor and self._decoder.is_boundary(self._ids, self._skip_special):
            self._known = text[-self._overlap :] if self._overlap else ""
            self._ids.clear()
            self._is_first = False
        return False

    def _decoded(self) -> str:
        if self._is_first:
            return self._decoder.decode_whole(self._ids, self._skip_special)
        assert self._anchor is not None
        ids = self._anchor.token_ids + self._ids
        return self._decoder.decode_whole(ids, self._skip_special)[self._anchor.length :]


def _first(stop: tuple[str, ...], text: str) -> int | None:
    """Return the place of the stop string that begins first; None if there is none."""
    return min((at for each in stop if (at := text.find(each)) >= 0), default=None)
