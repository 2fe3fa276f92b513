"""Stop checker: decides when a completion ends, and extracts its text."""

from collections.abc import Iterable

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.output import repetition
from thothy_batch.engine.output.stop_strings import Decoder, StopStrings, StopStringSearch
from thothy_batch.records import Completion, FinishReason, Sampling

_NONE: frozenset[int] = frozenset()


class StopChecker:
    """Checks a sequence after each token. `decoder` is None if the model has no tokenizer."""

    def __init__(self, stop_token_ids: Iterable[int], decoder: Decoder | None) -> None:
        self._model_ids = frozenset(stop_token_ids)
        self._decoder = decoder
        self._stop_ids: dict[tuple[tuple[str, ...], tuple[int, ...], bool], frozenset[int]] = {}
        self._stop_strings: dict[tuple[str, ...], StopStrings] = {}
        self._searches: dict[Sequence, list[StopStringSearch]] = {}

    def finish_reason(self, seq: Sequence) -> FinishReason | None:
        """Return why the sequence ends with its last token; None if it continues.

        A stop token wins over all other reasons, and a loop over the length limit.
        """
        sampling = seq.state.request.sampling
        if seq.output_ids[-1] in self._ids_of(sampling):
            return FinishReason.STOP
        if sampling.stop and self._finds_stop(seq, sampling.stop):
            return FinishReason.STOP
        num_output = len(seq.output_ids)
        is_full = seq.prompt_len + num_output >= seq.max_len
        if (
            sampling.repetition_stop
            and (is_full or repetition.is_due(num_output))
            and repetition.repeats_itself(seq.output_ids, is_full=is_full)
        ):
            return FinishReason.REPETITION
        return FinishReason.LENGTH if is_full else None

    def completion(self, seq: Sequence) -> Completion:
        """Return the completion of a finished sequence. Without a tokenizer its text is empty.

        The text is that of all ids decoded at once, before a stop token or stop string. Half a
        character at its end is left out.
        """
        assert seq.finish_reason is not None
        ids = tuple(seq.output_ids)
        self._searches.pop(seq, None)
        if self._decoder is None:
            return Completion(ids, "", seq.finish_reason)
        sampling = seq.state.request.sampling
        shown = ids[:-1] if ids[-1] in self._ids_of(sampling) else ids
        if sampling.stop:
            text = self._strings_of(sampling.stop).cut(shown)
        else:
            text = self._decoder.decode_whole(shown)
        return Completion(ids, text, seq.finish_reason)

    def _ids_of(self, sampling: Sampling) -> frozenset[int]:
        """Return the ids that end a completion: the model's, and those of the request.

        `ignore_eos` ignores the model's.
        """
        from_model = _NONE if sampling.ignore_eos else self._model_ids
        if not (sampling.stop or sampling.stop_token_ids):
            return from_model
        key = sampling.stop, sampling.stop_token_ids, sampling.ignore_eos
        ids = self._stop_ids.get(key)
        if ids is None:
            ids = from_model.union(sampling.stop_token_ids)
            if sampling.stop:
                ids |= self._strings_of(sampling.stop).token_ids
            self._stop_ids[key] = ids
        return ids

    def _strings_of(self, stop: tuple[str, ...]) -> StopStrings:
        assert self._decoder is not None, "stop strings were accepted without a tokenizer"
        if stop not in self._stop_strings:
            self._stop_strings[stop] = StopStrings(self._decoder, stop)
        return self._stop_strings[stop]

    def _finds_stop(self, seq: Sequence, stop: tuple[str, ...]) -> bool:
        searches = self._searches.get(seq)
        if searches is None:
            searches = self._searches[seq] = self._strings_of(stop).searches()
        found = [search.add(seq.output_ids[-1]) for search in searches]
        return any(found)
