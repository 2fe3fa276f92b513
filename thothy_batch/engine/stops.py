"""When a completion ends: stop ids, stop strings, length, endless repetition. No torch.

Everything here depends on the sequence's own tokens alone.
"""

from collections.abc import Callable, Sequence as Seq

from thothy_batch.engine.sequence import Sequence
from thothy_batch.records import FinishReason

MAX_PERIOD = 64  # tokens of the longest cycle that is looked for
CHECK_EVERY = 16  # output tokens between two looks
MIN_COPIES = 4
MIN_COVERED = 64  # tokens that the copies must fill: "ha ha ha" is text, 64 tokens of it are not

Decode = Callable[[Seq[int]], str]


def repeats(token_ids: Seq[int]) -> bool:
    """Whether the output ends in copies of one cycle of 1 to MAX_PERIOD tokens."""
    for period in range(1, MAX_PERIOD + 1):
        covered = max(MIN_COVERED, period * MIN_COPIES)
        if covered > len(token_ids):
            return False
        tail = token_ids[len(token_ids) - covered :]
        if tail[period:] == tail[:-period]:
            return True
    return False


class StopChecker:
    """Decides after each token of a sequence whether it was the last."""

    def __init__(self, stop_token_ids: frozenset[int], decode: Decode | None) -> None:
        self._stop_token_ids = stop_token_ids
        self._decode = decode

    def check(self, seq: Sequence) -> FinishReason | None:
        """Looks at the newest token. Sets `seq.stop_text_end` where a stop string was found."""
        sampling = seq.state.request.sampling
        num_output = seq.num_output_tokens
        if not sampling.ignore_eos and seq.token_ids[-1] in self._stop_token_ids:
            return FinishReason.STOP
        if sampling.stop and self._decode is not None and self._finds_stop(seq):
            return FinishReason.STOP
        if num_output >= sampling.max_tokens:
            return FinishReason.LENGTH
        if sampling.repetition_stop and num_output % CHECK_EVERY == 0:
            window = MAX_PERIOD * MIN_COPIES
            if repeats(seq.token_ids[max(seq.num_prompt_tokens, len(seq.token_ids) - window) :]):
                return FinishReason.REPETITION
        return None

    def _finds_stop(self, seq: Sequence) -> bool:
        """Only the tail can hold a new match: as many tokens as the longest stop has bytes."""
        stops = seq.state.request.sampling.stop
        assert self._decode is not None
        longest = max(len(stop.encode()) for stop in stops)
        output = seq.output_token_ids
        tail = self._decode(output[-(longest + 1) :])
        if not any(stop in tail for stop in stops):
            return False
        text = self._decode(output)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            seq.stop_text_end = min(found)
        return bool(found)
