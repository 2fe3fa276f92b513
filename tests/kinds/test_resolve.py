"""Defaults of the kind under the job's settings under the row's own."""

from pathlib import Path
from typing import Any

import pytest

from thothy_batch import kinds
from thothy_batch.kinds.kind import ParamSpec, Stage
from thothy_batch.records import Sampling

SUMMARY = kinds.load_kind("summary", Path())
HOOK = kinds.load_kind("hook", Path())
RAW = kinds.load_kind("raw", Path())
TRANSLATION = kinds.load_kind("translation", Path())


def kind_with(**params: ParamSpec) -> kinds.Kind:
    return kinds.Kind("own", "hash", "item", (Stage("draft", "x"),), params=params)


def test_row_params_win_over_the_jobs_and_those_over_the_kinds() -> None:
    resolve = kinds.resolve_params
    assert resolve(SUMMARY, {}) == {"max_words": 60, "language": "en"}
    assert resolve(SUMMARY, {"max_words": 30})["max_words"] == 30
    job, row = {"max_words": 30, "language": "de"}, {"max_words": 40, "language": None}
    assert resolve(SUMMARY, job, row) == {"max_words": 40, "language": "de"}


def test_unknown_params_of_other_kinds_do_not_matter_while_they_are_null() -> None:
    row = {"variants": None, "max_words": float("nan")}
    assert kinds.resolve_params(SUMMARY, {}, row)["max_words"] == 60


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"max_word": 3}, "no param 'max_word' (did you mean 'max_words'?)"),
        ({"max_words": 4}, "params.max_words must be at least 5, found 4"),
        ({"max_words": 2001}, "at most 2000"),
        ({"max_words": "60"}, "must be a whole number, found '60'"),
        ({"max_words": 60.5}, "must be a whole number, found 60.5"),
        ({"max_words": True}, "must be a whole number, found True"),
        ({"max_words": float("inf")}, "must be a whole number"),
        ({"max_words": 10**400}, "at most 2000"),
        ({"language": 7}, "must be text"),
        ("max_words=3", "params must be a mapping"),
        ([1], "params must be a mapping"),
    ],
)
def test_bad_row_params_say_what_is_wrong(row: Any, message: str) -> None:
    with pytest.raises(kinds.InvalidValueError) as caught:
        kinds.resolve_params(SUMMARY, {}, row)
    assert message in str(caught.value)


def test_all_bad_params_are_told_at_once() -> None:
    with pytest.raises(kinds.InvalidValueError) as caught:
        kinds.resolve_params(SUMMARY, {"max_words": 0, "language": 1, "more": 2})
    assert len(caught.value.problems) == 3


def test_a_whole_float_is_a_whole_number() -> None:
    value = kinds.resolve_params(SUMMARY, {}, {"max_words": 60.0})["max_words"]
    assert isinstance(value, int)


def test_params_without_default_have_to_be_given() -> None:
    kind = kind_with(tone=ParamSpec("str", required=True), extra=ParamSpec("float"))
    with pytest.raises(kinds.InvalidValueError, match=r"params\.tone is missing"):
        kinds.resolve_params(kind, {})
    assert kinds.resolve_params(kind, {}, {"tone": "dry"}) == {"tone": "dry", "extra": None}


def test_types_of_params() -> None:
    kind = kind_with(
        a=ParamSpec("float", max=2.0), b=ParamSpec("bool"), c=ParamSpec("list"), d=ParamSpec("str")
    )
    good = {"a": 1, "b": False, "c": ("x", "y"), "d": ""}
    assert kinds.resolve_params(kind, good) == {"a": 1, "b": False, "c": ["x", "y"], "d": ""}
    for bad in ({"a": "1"}, {"a": 2.5}, {"b": 1}, {"c": "x"}, {"c": [1]}, {"c": [""]}, {"d": 1}):
        with pytest.raises(kinds.InvalidValueError):
            kinds.resolve_params(kind, bad)


def test_sampling_takes_the_kinds_defaults_where_a_job_is_silent() -> None:
    assert kinds.resolve_sampling(HOOK, {}) == Sampling(temperature=0.8, max_tokens=48)
    job = {"temperature": 0, "stop": ["\n"], "max_tokens": 20, "seed": 3}
    wanted = Sampling(temperature=0, max_tokens=20, stop=("\n",), seed=3)
    assert kinds.resolve_sampling(HOOK, job) == wanted
    assert kinds.resolve_sampling(HOOK, job, {"max_tokens": 7}).max_tokens == 7


@pytest.mark.parametrize(
    ("kind", "job", "wanted"),
    [
        (SUMMARY, {}, True),
        (SUMMARY, {"repetition_stop": "auto"}, True),
        (SUMMARY, {"ignore_eos": True}, False),
        (SUMMARY, {"repetition_stop": False}, False),
        (SUMMARY, {"repetition_stop": True, "ignore_eos": True}, True),
        (RAW, {}, False),
        (RAW, {"repetition_stop": True}, True),
    ],
)
def test_repetition_stop_auto_is_off_for_raw_and_with_ignore_eos(
    kind: kinds.Kind, job: dict[str, Any], wanted: bool
) -> None:
    assert kinds.resolve_sampling(kind, job).repetition_stop is wanted


@pytest.mark.parametrize(
    "job",
    [
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"temperature": 10**400},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"tempreature": 1},
    ],
)
def test_impossible_sampling_values_are_refused(job: dict[str, Any]) -> None:
    with pytest.raises(kinds.InvalidValueError, match=next(iter(job))):
        kinds.resolve_sampling(SUMMARY, job)


def test_a_rows_max_tokens_is_checked() -> None:
    with pytest.raises(kinds.InvalidValueError, match="max_tokens must be at least 1"):
        kinds.resolve_sampling(RAW, {}, {"max_tokens": 0})


def test_several_samples_need_a_temperature() -> None:
    params = kinds.resolve_params(HOOK, {"variants": 5})
    assert kinds.resolve_samples(HOOK, params, Sampling(temperature=0.1)) == 5
    with pytest.raises(kinds.InvalidValueError, match="at temperature 0 all samples are the same"):
        kinds.resolve_samples(HOOK, params, Sampling())
    one = kinds.resolve_params(HOOK, {"variants": 1})
    assert kinds.resolve_samples(HOOK, one, Sampling()) == 1
    assert kinds.resolve_samples(SUMMARY, {}, Sampling()) == 1


def test_languages_come_from_the_row_or_the_params_and_once_each() -> None:
    params = kinds.resolve_params(TRANSLATION, {"target_langs": ["de", "fr", "de"]})
    assert kinds.resolve_languages(TRANSLATION, params, None) == ["de", "fr"]
    assert kinds.resolve_languages(TRANSLATION, params, "es") == ["es"]
    with pytest.raises(kinds.InvalidValueError, match="no target language"):
        kinds.resolve_languages(TRANSLATION, {"target_langs": []}, None)
    with pytest.raises(kinds.InvalidValueError, match="must be text"):
        kinds.resolve_languages(TRANSLATION, params, 4)


@pytest.mark.parametrize("language", ["de#2", "#3", "two\nlines#10"])
def test_no_language_looks_like_that_of_a_row_that_repeats_an_id(language: str) -> None:
    for params, own in (({}, language), ({"target_langs": ["de", language]}, None)):
        with pytest.raises(kinds.InvalidValueError, match="repeats an id"):
            kinds.resolve_languages(TRANSLATION, params, own)
    for fine in ("C#", "de#", "de#2x", "#"):
        assert kinds.resolve_languages(TRANSLATION, {}, fine) == [fine]
