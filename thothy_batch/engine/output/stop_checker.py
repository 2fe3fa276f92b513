"""Stop checker: decides when a completion ends, and extracts its text."""

from collections.abc import Iterable
from typing import Protocol

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.output import repetition
from thothy_batch.records import Completion, FinishReason, TokenIds

_INCOMPLETE = "\ufffd"  # a decoder's output for the first bytes of a multi-byte character
_MAX_PENDING = 8  # tokens that may decode to incomplete text before it counts as final


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, token_ids: TokenIds, skip_special: bool = True) -> str: ...


class StopChecker:
    """Checks a sequence after each token. `decoder` is None if the model has no tokenizer."""

    def __init__(self, stop_token_ids: Iterable[int], decoder: Decoder | None) -> None:
        self._stop_token_ids = frozenset(stop_token_ids)
        self._decoder = decoder
        self._searches: dict[Sequence, _StopStringSearch] = {}

    def finish_reason(self, seq: Sequence) -> FinishReason | None:
        """Return why the sequence ends with its last token; None if it continues.

        A stop token wins over all other reasons, and a loop over the length limit.
        """
        sampling = seq.state.request.sampling
        token_id = seq.output_ids[-1]
        if token_id in self._stop_token_ids and not sampling.ignore_eos:
            return FinishReason.STOP
        if sampling.stop and self._finds_stop(seq, sampling.stop):
            return FinishReason.STOP
        num_output = len(seq.output_ids)
        if (
            sampling.repetition_stop
            and repetition.is_due(num_output)
            and repetition.repeats_itself(seq.output_ids)
        ):
            return FinishReason.REPETITION
        return FinishReason.LENGTH if seq.prompt_len + num_output >= seq.max_len else None

    def completion(self, seq: Sequence) -> Completion:
        """Return the completion of a finished sequence. Without a tokenizer its text is empty."""
        assert seq.finish_reason is not None
        ids = tuple(seq.output_ids)
        search = self._searches.pop(seq, None)
        if self._decoder is None:
            return Completion(ids, "", seq.finish_reason)
        sampling = seq.state.request.sampling
        ends_in_stop_token = not sampling.ignore_eos and ids[-1] in self._stop_token_ids
        text = self._decoder.decode(ids[:-1] if ends_in_stop_token else ids)
        if search is not None and search.found_at is not None:
            text = search.text[: search.found_at]
        return Completion(ids, text, seq.finish_reason)

    def _finds_stop(self, seq: Sequence, stop: tuple[str, ...]) -> bool:
        assert self._decoder is not None, "stop strings were accepted without a tokenizer"
        search = self._searches.get(seq)
        if search is None:
            search = self._searches[seq] = _StopStringSearch(self._decoder, stop)
        return search.add(seq.output_ids[-1])


class _StopStringSearch:
    """A completion's text as it grows, and the first stop string in it.

    A token's text may depend on the token before it (spaces, multi-token characters). So the new
    text is the difference between decoding a short window with and without the new tokens.
    """

    def __init__(self, decoder: Decoder, stop: tuple[str, ...]) -> None:
        self._decoder = decoder
        self._stop = stop
        self._ids: list[int] = []
        self._window = 0  # first id of the window
        self._done = 0  # ids whose text is in `text`
        self._overlap = max(len(s) for s in stop) - 1
        self.text = ""
        self.found_at: int | None = None

    def add(self, token_id: int) -> bool:
        """Add a token; return whether the text now contains a stop string."""
        self._ids.append(token_id)
        known = self._decoder.decode(self._ids[self._window : self._done])
        text = self._decoder.decode(self._ids[self._window :])
        if text.endswith(_INCOMPLETE) and len(self._ids) - self._done < _MAX_PENDING:
            return False
        searched = max(0, len(self.text) - self._overlap)
        self.text += text[len(known) :]
        self._window, self._done = self._done, len(self._ids)
        places = [self.text.find(stop, searched) for stop in self._stop]
        found = [place for place in places if place >= 0]
        if found:
            self.found_at = min(found)
        return bool(found)
