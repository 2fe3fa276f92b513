"""The text of a completion: that of decoding all ids at once, cut before the first stop."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.engine.core.sequence import Clock
from thothy_batch.engine.core.sequence import Sequence as Seq
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.model.tokenizer import Tokenizer
from thothy_batch.records import Completion, FinishReason, Request, Sampling

EOS = 1 << 20  # an id of no vocabulary, so that only stops of the request end a completion
PROPERTY = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HALF = "\ufffd"


def complete(
    tokenizer: Tokenizer, output: Sequence[int], eos: Sequence[int] = (EOS,), **sampling: Any
) -> Completion:
    """Feed ids until the checker stops the completion, at the latest after all of them."""
    checker = StopChecker(eos, tokenizer)
    sampling.setdefault("repetition_stop", False)
    request = Request(0, "", (1,), Sampling(max_tokens=len(output), **sampling))
    seq = Seq.first_of(request, Clock())
    for token_id in output:
        seq.output_ids.append(token_id)
        seq.finish_reason = checker.finish_reason(seq)
        if seq.finish_reason is not None:
            return checker.completion(seq)
    raise AssertionError("the completion did not end at max_tokens")


@cache
def kinds_of_ids(tokenizer: Tokenizer) -> list[list[int]]:
    """Return special and added ids, parts of characters, ids of a text, plain and unknown ones."""
    backend, size = tokenizer._backend, tokenizer.vocab_size
    added = sorted(backend.get_added_tokens_decoder())
    odd = [i for i in range(min(size, 2000)) if HALF in backend.decode([i])]
    text = tokenizer.encode("  a   b the lamp\n\n é € 😀 한국")
    return [added, odd or text, text, [*range(280, 300), size // 2, size - 1, size, size + 1]]


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    token = st.one_of([st.sampled_from(ids) for ids in kinds_of_ids(tokenizer)])
    return st.lists(token, min_size=1, max_size=16)


@cache
def continuations(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids of bytes that may complete a character, by one, two or three of them."""
    backend = tokenizer._backend
    names = {0x80: "Ģ", 0x90: "\u0132", 0xA0: "ł", 0xBF: "¿"}
    ids = []
    for byte, name in names.items():
        token = backend.token_to_id(f"<0x{byte:02X}>")
        ids.append(backend.token_to_id(name) if token is None else token)
    return [list(each) for num in (1, 2, 3) for each in product(ids, repeat=num)]


@given(data=st.data())
@PROPERTY
def test_the_text_is_the_full_decode_without_half_a_character(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    """Half a character is one that some bytes after it would complete."""
    ids = data.draw(ids_of(tokenizer))
    text, full = complete(tokenizer, ids).text, tokenizer.decode(ids)
    if text == full:
        if full.endswith(HALF):
            made = [tokenizer.decode(ids + more) for more in continuations(tokenizer)]
            assert not any(len(each) == len(full) and each[-1] != HALF for each in made)
        return
    assert full.endswith(HALF)
    made = [tokenizer.decode(ids + more) for more in continuations(tokenizer)]
    completed = {each[:-1] for each in made if len(each) == len(text) + 1}
    # A run of byte tokens that cannot be text as a whole is written as U+FFFD, byte by byte.
    assert text in completed or (full.startswith(text) and set(full[len(text) :]) == {HALF})


@given(data=st.data())
@PROPERTY
def test_stop_strings_end_a_completion_where_its_full_decode_holds_one(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(ids_of(tokenizer))
    text = tokenizer.decode_whole(ids)
    pieces = st.sampled_from(
        [text[a : a + n] for a in range(len(text)) for n in (1, 2, 5, 12)] or ["x"]
    )
    stop = tuple(data.draw(st.lists(pieces, min_size=1, max_size=3)))
    texts = [tokenizer.decode_whole(ids[: num + 1]) for num in range(len(ids))]
    num = next((n for n, t in enumerate(texts, 1) if any(s in t for s in stop)), 0)
    found = complete(tokenizer, ids, stop=stop)
    if not num:
        assert found.finish_reason is FinishReason.LENGTH
        assert (found.text, found.token_ids) == (text, tuple(ids))
        return
    shortest = min((texts[num - 1].partition(s)[0] for s in stop), key=len)
    assert found.finish_reason is FinishReason.STOP
    assert found.token_ids == tuple(ids[:num])
    assert found.text == shortest


@given(data=st.data())
@PROPERTY
def test_a_stop_that_never_comes_changes_no_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(ids_of(tokenizer))
    assert complete(tokenizer, ids, stop=("\x01never",)) == complete(tokenizer, ids)


@given(data=st.data())
@PROPERTY
def test_text_up_to_a_boundary_stays_whatever_follows(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids, more = data.draw(ids_of(tokenizer)), data.draw(ids_of(tokenizer))
    for skip in (True, False):
        if tokenizer.is_boundary(ids, skip):
            text = tokenizer.decode(ids, skip)
            assert tokenizer.decode(ids + more, skip).startswith(text)


@pytest.mark.parametrize("name", ["small byte-level", "small sentencepiece"])
def test_a_special_token_as_stop_string_is_a_stop_id(
    name: str, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    mark = tokenizer.special_token_ids["<|mark|>"]
    ids = [*tokenizer.encode("the lamp"), mark, *tokenizer.encode("more")]
    found = complete(tokenizer, ids, stop=("<|mark|>", "zzz"))
    assert found.finish_reason is FinishReason.STOP
    assert (found.text, found.token_ids) == ("the lamp", tuple(ids[: ids.index(mark) + 1]))
    assert complete(tokenizer, ids, stop=("<|mark|>",), ignore_eos=True) == found
    # Written in ordinary characters it is a stop string like any other.
    spelled = [i for c in "ab<|mark|>c" for i in tokenizer.encode(c)[-1:]]
    assert complete(tokenizer, spelled, stop=("<|mark|>",)).text == "ab"


@pytest.mark.parametrize("name", ["small byte-level", "small sentencepiece"])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("lamp<|mark|>",), "the "),
        (("<|mark|>mo",), "the lamp"),
        (("p<|mark|>m", "<|end|>x"), "the lam"),
        (("more", "mark|>m"), "the lamp"),
        (("e lamp<|mark|>more<|im_start|>",), "th"),
        (("the lamp<|end|>",), "the lampmore"),
    ],
)
def test_a_stop_string_may_hold_special_tokens_among_text(
    name: str, stop: tuple[str, ...], text: str, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    special = tokenizer.special_token_ids
    more = [i for i in tokenizer.encode("more") if tokenizer.decode([i])]
    ids = [*tokenizer.encode("the lamp"), special["<|mark|>"], *more, special["<|im_start|>"]]
    found = complete(tokenizer, ids, stop=stop)
    assert found.text == text
    assert (found.finish_reason is FinishReason.STOP) == (text != "the lampmore")


@pytest.mark.parametrize("name", ["small byte-level", "small sentencepiece"])
def test_stop_ids_of_a_request_add_to_those_of_the_model(
    name: str, tokenizer_of: Callable[[str], Tokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode("abcde")
    last, eos = ids[-1], ids[-3]
    assert complete(tokenizer, ids, [eos], stop_token_ids=(last,)).token_ids == tuple(ids[:-2])
    found = complete(tokenizer, ids, [eos], stop_token_ids=(last,), ignore_eos=True)
    assert (found.token_ids, found.finish_reason) == (tuple(ids), FinishReason.STOP)
    assert found.text == tokenizer.decode(ids[:-1])


def test_a_character_cut_in_two_is_left_out_and_one_that_was_written_stays(
    tokenizer: Tokenizer,
) -> None:
    for text in ("café", "5 €", "lit 😀", "한"):
        ids = tokenizer.encode(text)
        for end in range(1, len(ids)):
            assert HALF not in complete(tokenizer, ids[:end]).text
        assert complete(tokenizer, ids).text == tokenizer.decode(ids)
    written = tokenizer.encode(f"so {HALF}")
    assert complete(tokenizer, written).text.endswith(HALF)
