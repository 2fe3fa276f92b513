"""Stop checker: ends of completions, and the text that remains."""

from typing import Any

import pytest

from thothy_batch.engine.core.sequence import Clock, Sequence
from thothy_batch.engine.fake_model import ByteTokenizer
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.records import Completion, FinishReason


def complete(request: Any, output: bytes, decoder: Any = None) -> tuple[Completion, int]:
    """Feed output bytes until the checker stops; returns the completion and the bytes consumed."""
    rules = StopChecker({0}, decoder or ByteTokenizer())
    seq = Sequence.first_of(request, Clock())
    for taken, token_id in enumerate(output, 1):
        seq.output_ids.append(token_id)
        seq.finish_reason = rules.finish_reason(seq)
        if seq.finish_reason is not None:
            return rules.completion(seq), taken
    raise AssertionError("the completion did not end")


def test_a_stop_token_ends_the_completion_and_is_counted(request_of: Any) -> None:
    completion, taken = complete(request_of(0, b"x", 99), b"done\0more")
    assert completion == Completion(tuple(b"done\0"), "done", FinishReason.STOP)
    assert taken == 5


def test_ignore_eos_runs_to_max_tokens(request_of: Any) -> None:
    completion, _ = complete(request_of(0, b"x", 6, ignore_eos=True), b"a\0b\0cd\0")
    assert completion == Completion(tuple(b"a\0b\0cd"), "abcd", FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("stop", "output", "text"),
    [
        (("###",), b"one ## two ### three", "one ## two "),
        (("b", "ab"), b"xxabyy", "xx"),  # both end with the same token: the earlier start counts
        (("\n\n",), b"\n\nat once", ""),
        (("é",), "caf\u00e9 noir".encode(), "caf"),
        (("€ 5", "zz"), "price: € 5.00".encode(), "price: "),
    ],
)
def test_text_is_cut_before_a_stop_string(
    request_of: Any, stop: tuple[str, ...], output: bytes, text: str
) -> None:
    completion, taken = complete(request_of(0, b"x", 99, stop=stop), output)
    assert completion.text == text
    assert completion.finish_reason is FinishReason.STOP
    assert completion.token_ids == tuple(output[:taken]), "the tokens of the stop string are kept"


def test_a_stop_string_in_the_prompt_does_not_count(request_of: Any) -> None:
    completion, _ = complete(request_of(0, b"END E", 4, stop=("END",)), b"ND E")
    assert completion.finish_reason is FinishReason.LENGTH


def test_the_end_of_a_loop_depends_on_its_output_alone(request_of: Any) -> None:
    output = b"intro: " + b"abc" * 200
    for prompt in (b"x", b"abc" * 30):
        completion, taken = complete(request_of(0, prompt, 500, repetition_stop=True), output)
        assert completion.finish_reason is FinishReason.REPETITION
        assert taken == 80, "7 + 64 tokens, rounded up to a multiple of 16"


@pytest.mark.parametrize("period", [80, 300, 512])
def test_a_long_loop_ends_before_max_tokens(request_of: Any, period: int) -> None:
    """The period is one of its numbers: each token of a cycle says its place in it."""
    cycle = b"".join(b"%x;" % (number * 7919 % 4096) for number in range(period))[:period]
    output = b"intro: " + cycle * 5
    request = request_of(0, b"x", len(output), repetition_stop=True)
    completion, taken = complete(request, output)
    assert completion.finish_reason is FinishReason.REPETITION
    assert taken <= 7 + 3 * period + 16


def test_a_loop_that_max_tokens_ends_is_no_cut(request_of: Any) -> None:
    """Two copies are too few to stop at, but not to see what more room would be used for."""
    cycle = b"".join(b"%x;" % (number * 7919 % 4096) for number in range(99))[:99]
    completion, _ = complete(request_of(0, b"x", 200, repetition_stop=True), b"no" + cycle * 3)
    assert completion.finish_reason is FinishReason.REPETITION
    completion, _ = complete(request_of(0, b"x", 199, repetition_stop=True), b"no" + cycle * 3)
    assert completion.finish_reason is FinishReason.LENGTH


def test_the_repetition_check_can_be_turned_off(request_of: Any) -> None:
    completion, _ = complete(request_of(0, b"x", 300, repetition_stop=False), b"a" * 400)
    assert completion.finish_reason is FinishReason.LENGTH


def test_a_model_without_a_tokenizer_gives_no_text(request_of: Any) -> None:
    rules = StopChecker({0}, None)
    seq = Sequence.first_of(request_of(0, [1], 1), Clock())
    seq.output_ids.append(5)
    seq.finish_reason = rules.finish_reason(seq)
    assert rules.completion(seq) == Completion((5,), "", FinishReason.LENGTH)
