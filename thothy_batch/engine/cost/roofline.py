"""The roofline of a run: the time that its work needs on this device, however it is scheduled.

    prefill    2 * P * unique prompt tokens / F + attention operations / F
    decode     max(weight bytes * longest output / BW, 2 * (P + P_h) * all output tokens / F)
    KV reads   (each suffix once per own output token, each shared prefix once per token of the
               longest output among its readers) / BW

F: operations a second, BW: bytes a second. P, P_h: parameters of body and LM head. Sharing is a
property of the prompts alone: it does not matter here if the engine used it. No term depends on
steps, batches, pools or order. An output token counts as one row of one decode step: with
speculation steps are fewer, and a run may need less time than this.
Where the linears are quantised, weight bytes are the quantised ones, and F is the rate of their
products; attention is charged at the rate of the dtype.
"""

from collections.abc import Iterable, Sequence

from thothy_batch.engine.cost.cost_model import ModelWork
from thothy_batch.records import SharedPrefix


class RooflineWork:
    """Sums over finished requests. Its memory grows with the shared prefixes alone."""

    def __init__(self, work: ModelWork) -> None:
        self._work = work
        self._windows = [group.window for group in work.groups]
        self._num_unique = 0
        self._num_output = 0
        self._longest = 0
        # Per layer group: query-key pairs of prefill, tokens of suffixes that decode rows read.
        self._pairs = [0] * len(work.groups)
        self._own_reads = [0] * len(work.groups)
        # Per shared prefix and layer group: tokens read by the reader that reads most of it.
        self._shared_reads: dict[int, list[int]] = {}

    @property
    def unique_prompt_tokens(self) -> int:
        """Prompt tokens, shared ones counted once."""
        return self._num_unique

    def add(
        self, prompt_len: int, output_lens: Sequence[int], prefixes: Sequence[SharedPrefix] = ()
    ) -> None:
        """Count one request: an output length per sample, shared prefixes from the shortest on.

        Samples of one prompt share all of it.
        """
        longest = max(output_lens)
        self._longest = max(self._longest, longest)
        self._num_output += sum(output_lens)
        start = 0
        for prefix in prefixes:
            end = prefix.end
            if (most := self._shared_reads.get(prefix.prefix_id)) is None:
                self._compute(start, end)
                most = self._shared_reads[prefix.prefix_id] = [0] * len(self._windows)
            for index, window in enumerate(self._windows):
                read = _prompt_reads(start, end, prompt_len, longest, window)
                if read > most[index]:
                    most[index] = read
            start = end
        self._compute(start, prompt_len)
        for index, window in enumerate(self._windows):
            reads = _prompt_reads(start, prompt_len, prompt_len, longest, window)
            for output_len in output_lens:
                reads += _output_reads(output_len, window)
            self._own_reads[index] += reads

    def seconds(
        self, flops: float, bandwidth: float, attention_flops: float | None = None
    ) -> float:
        """The roofline time at `flops` operations and `bandwidth` bytes a second.

        `attention_flops`: where attention multiplies in another format than the linears.
        """
        work = self._work
        attention = sum(
            pairs * group.num_layers for pairs, group in zip(self._pairs, work.groups, strict=True)
        )
        prefill_s = 2 * work.body_parameters * self._num_unique / flops
        attention_s = work.pair_flops * attention / (attention_flops or flops)
        parameters = work.body_parameters + work.head_parameters
        decode_s = max(
            work.weight_bytes * self._longest / bandwidth,
            2 * parameters * self._num_output / flops,
        )
        return prefill_s + attention_s + decode_s + self._kv_bytes() / bandwidth

    def _compute(self, start: int, end: int) -> None:
        """Count prompt positions start .. end, which have to be computed once."""
        self._num_unique += end - start
        for index, window in enumerate(self._windows):
            self._pairs[index] += _pairs_before(end, window) - _pairs_before(start, window)

    def _kv_bytes(self) -> int:
        total = 0
        for index, group in enumerate(self._work.groups):
            shared = sum(most[index] for most in self._shared_reads.values())
            total += group.kv_bytes_per_token * (self._own_reads[index] + shared)
        return total


def roofline_s(
    requests: Iterable[tuple[int, Sequence[int], Sequence[SharedPrefix]]],
    work: ModelWork,
    flops: float,
    bandwidth: float,
) -> float:
    """The roofline time of requests: (prompt length, output lengths, shared prefixes) each."""
    total = RooflineWork(work)
    for prompt_len, output_lens, prefixes in requests:
        total.add(prompt_len, output_lens, prefixes)
    return total.seconds(flops, bandwidth)


def _pairs_before(end: int, window: int | None) -> int:
    """Query-key pairs of positions 0 .. end: each attends to itself and those before it."""
    if window is None or end <= window:
        return end * (end + 1) // 2
    return window * (window + 1) // 2 + (end - window) * window


def _prompt_reads(
    start: int, end: int, prompt_len: int, output_len: int, window: int | None
) -> int:
    """Tokens of start .. end read by all output tokens of a prompt together."""
    if window is None:
        return (end - start) * output_len
    return _reads_before(end, prompt_len, output_len, window) - _reads_before(
        start, prompt_len, output_len, window
    )


def _reads_before(end: int, prompt_len: int, output_len: int, window: int) -> int:
    """Tokens of 0 .. end that the output tokens read: number t from prompt_len + t - window on."""
    num_all = max(0, min(output_len, window - prompt_len))  # those that read the first token too
    seen = max(0, end - max(0, prompt_len + num_all + 1 - window))  # of the next one
    falling = min(output_len - num_all, seen)
    return num_all * end + falling * seen - falling * (falling - 1) // 2


def _output_reads(output_len: int, window: int | None) -> int:
    """Earlier output tokens read by all output tokens together."""
    if window is None or output_len <= window:
        return output_len * (output_len - 1) // 2
    return window * (window - 1) // 2 + (output_len - window) * (window - 1)
