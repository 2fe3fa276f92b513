"""When a completion ends, and what its text then is."""

from collections.abc import Iterable
from typing import Protocol

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.output import repetition
from thothy_batch.records import Completion, FinishReason, TokenIds

_UNFINISHED = "\ufffd"  # what a decoder gives for the first bytes of a longer character


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, token_ids: TokenIds, skip_special: bool = True) -> str: ...


class StopRules:
    """Looks at a sequence after each token. `decoder` is None where a model has no tokenizer."""

    def __init__(self, stop_token_ids: Iterable[int], decoder: Decoder | None) -> None:
        self._stop_token_ids = frozenset(stop_token_ids)
        self._decoder = decoder
        self._watches: dict[Sequence, _StopWatch] = {}

    def finish_reason(self, seq: Sequence) -> FinishReason | None:
        """Why the sequence ends with its last token; None when it goes on.

        A stop token goes before all; a loop that reaches its last allowed token is a loop.
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
        """What a finished sequence came to. Without a tokenizer the text is empty."""
        assert seq.finish_reason is not None
        ids = tuple(seq.output_ids)
        watch = self._watches.pop(seq, None)
        if self._decoder is None:
            return Completion(ids, "", seq.finish_reason)
        sampling = seq.state.request.sampling
        ends_in_stop_token = not sampling.ignore_eos and ids[-1] in self._stop_token_ids
        text = self._decoder.decode(ids[:-1] if ends_in_stop_token else ids)
        if watch is not None and watch.found_at is not None:
            text = watch.text[: watch.found_at]
        return Completion(ids, text, seq.finish_reason)

    def _finds_stop(self, seq: Sequence, stop: tuple[str, ...]) -> bool:
        assert self._decoder is not None, "stop strings were accepted without a tokenizer"
        watch = self._watches.get(seq)
        if watch is None:
            watch = self._watches[seq] = _StopWatch(self._decoder, stop)
        return watch.add(seq.output_ids[-1])


class _StopWatch:
    """A completion's text as it grows, and the first stop string in it.

    A token's text may depend on the one before it (spaces, characters of several tokens): what is
    new is the difference between decoding a short window with and without the new tokens.
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
        """Take in one token; true when a stop string is complete."""
        self._ids.append(token_id)
        known = self._decoder.decode(self._ids[self._window : self._done])
        text = self._decoder.decode(self._ids[self._window :])
        if text.endswith(_UNFINISHED) and len(self._ids) - self._done < 8:
            return False
        searched = max(0, len(self.text) - self._overlap)
        self.text += text[len(known) :]
        self._window, self._done = self._done, len(self._ids)
        places = [self.text.find(stop, searched) for stop in self._stop]
        found = [place for place in places if place >= 0]
        if found:
            self.found_at = min(found)
        return bool(found)
