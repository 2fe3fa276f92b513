"""An entry's values to the token ids of its prompt, in this process or in a worker."""

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from thothy_batch.engine.core.limits import Limits, why_unfit
from thothy_batch.engine.model_info import AnyTokenizer, ModelInfo
from thothy_batch.kinds import Kind, TemplateProblem, render
from thothy_batch.model.tokenizer.chat_template import BeyondBoundsError
from thothy_batch.plan import request_key
from thothy_batch.records import FailureCode, Request, Sampling

TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Draft:
    """What a worker needs of an entry."""

    job_index: int
    variables: dict[str, object]
    sampling: Sampling
    num_samples: int
    stage: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt and the identity of its request, or why there is none."""

    prompt_token_ids: "array[int]"
    request_key: str = ""
    code: FailureCode | None = None
    message: str = ""
    flags: tuple[str, ...] = ()  # the draft's, and `truncated` where the prompt was cut


@dataclass(frozen=True, slots=True)
class RenderContext:
    """What all entries of a night share. Travels to workers once."""

    kinds: tuple[Kind, ...]  # by job index
    on_too_long: tuple[str, ...]
    facts: ModelInfo
    run_seed: int
    limits: Limits


Render = Callable[[Sequence[Draft]], list[Rendered]]


def make_renderer(setting: RenderContext) -> Render:
    """The function that workers run; picklable as `partial(make_renderer, setting)`."""
    return partial(_render_all, setting)


def make_worker(setting: RenderContext) -> Render:
    """`make_renderer` in a process of its own, where the tokenizer must not start threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return make_renderer(setting)


def _render_all(setting: RenderContext, drafts: Sequence[Draft]) -> list[Rendered]:
    return [_render_one(setting, draft) for draft in drafts]


class _Unusable(Exception):  # noqa: N818  (a finding about a row, no fault of ours)
    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Token ids, and the text around the document where that can be cut."""

    ids: list[int]
    messages: list[dict[str, str]]
    num_document_chars: int = 0


def _render_one(setting: RenderContext, draft: Draft) -> Rendered:
    try:
        prompt = _prompt(setting, draft)
        if not prompt.ids:
            raise _Unusable(FailureCode.INVALID_INPUT, "the prompt has no tokens")
        ids, truncated = _fit(setting, draft, prompt)
    except _Unusable as unusable:
        return Rendered(array("i"), code=unusable.code, message=unusable.message)
    kind = setting.kinds[draft.job_index]
    flags = draft.flags
    if truncated and TRUNCATED not in flags:
        flags = (*flags, TRUNCATED)
    key = request_key(
        model_fingerprint=setting.facts.fingerprint,
        prompt_token_ids=ids,
        sampling=draft.sampling,
        num_samples=draft.num_samples,
        kind_hash=kind.content_hash,
        output_schema=kind.output.as_json(),
        run_seed=setting.run_seed,
        beyond_prompt=_beyond_prompt(kind, draft, flags),
        may_draw=kind.retry_temperature is not None,
    )
    return Rendered(array("i", ids), key, flags=flags)


def _beyond_prompt(kind: Kind, draft: Draft, flags: tuple[str, ...]) -> dict[str, object]:
    """What the artifact shows or reads that the first prompt does not hold.

    Two rows may come to the same first prompt, one of them by a cut or because their group lacks
    an item, and two jobs may differ only in what a later stage is told.
    """
    beyond: dict[str, object] = {"flags": flags} if flags else {}
    if len(kind.stages) > 1:
        beyond["variables"] = draft.variables
    return beyond


def _prompt(setting: RenderContext, draft: Draft) -> _Prompt:
    kind, facts = setting.kinds[draft.job_index], setting.facts
    if kind.raw and "prompt_token_ids" in draft.variables:
        ids = draft.variables["prompt_token_ids"]
        assert isinstance(ids, Sequence | array)
        return _Prompt(_checked_ids(list(ids), facts.vocab_size), [])
    if facts.tokenizer is None:
        raise _Unusable(
            FailureCode.INVALID_INPUT,
            f"model {facts.name!r} has no tokenizer.json: only prompt_token_ids can be used",
        )
    if kind.raw:
        return _Prompt(facts.tokenizer.encode_raw(str(draft.variables["prompt"])), [])
    try:
        prompt = render(kind, draft.stage, draft.variables)
    except TemplateProblem as problem:
        raise _Unusable(FailureCode.TEMPLATE_ERROR, str(problem)) from None
    ids = _chat_ids(facts.tokenizer, prompt.messages)
    return _Prompt(ids, prompt.messages, prompt.num_document_chars)


def _chat_ids(tokenizer: AnyTokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    try:
        return tokenizer.chat_ids(messages)
    except BeyondBoundsError as error:
        raise _Unusable(FailureCode.TEMPLATE_ERROR, error.message) from None


def _checked_ids(ids: list[int], vocab_size: int) -> list[int]:
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        place = next(i for i, token in enumerate(ids) if not 0 <= token < vocab_size)
        raise _Unusable(
            FailureCode.INVALID_INPUT,
            f"prompt_token_ids[{place}] is {ids[place]}: ids go from 0 to {vocab_size - 1}",
        )
    return ids


def _fit(setting: RenderContext, draft: Draft, prompt: _Prompt) -> tuple[list[int], bool]:
    """The prompt's ids, cut where the job says so and they are too many."""
    message = _why_unfit(setting, draft, prompt.ids)
    if not message:
        return prompt.ids, False
    how = setting.on_too_long[draft.job_index]
    tokenizer = setting.facts.tokenizer
    if how == "fail":
        raise _Unusable(FailureCode.PROMPT_TOO_LONG, message)
    if setting.kinds[draft.job_index].raw:
        cut = _longest(len(prompt.ids), lambda n: _cut_ids(prompt.ids, n, how, tokenizer))
    else:
        assert tokenizer is not None
        cut = _longest(
            prompt.num_document_chars, lambda n: _chat_ids(tokenizer, _cut_document(prompt, n, how))
        )
    best = cut(lambda ids: not _why_unfit(setting, draft, ids))
    if best is None:
        raise _Unusable(FailureCode.PROMPT_TOO_LONG, f"{message}, even with the document cut away")
    return best, True


def _why_unfit(setting: RenderContext, draft: Draft, ids: Sequence[int]) -> str:
    return why_unfit(
        Request(0, "", ids, draft.sampling, num_samples=draft.num_samples), setting.limits
    )


def _longest(
    size: int, make: Callable[[int], list[int]]
) -> Callable[[Callable[[list[int]], bool]], list[int] | None]:
    """The ids of the longest cut (1..size-1 units kept) that is accepted; None where none is."""

    def search(accept: Callable[[list[int]], bool]) -> list[int] | None:
        best = None
        low, high = 1, size - 1
        while low <= high:
            middle = (low + high) // 2
            ids = make(middle)
            if accept(ids):
                best, low = ids, middle + 1
            else:
                high = middle - 1
        return best

    return search


def _cut_ids(ids: list[int], num: int, how: str, tokenizer: AnyTokenizer | None) -> list[int]:
    if how == "truncate_tail":
        return ids[:num]
    first = ids[:1] if ids[0] == getattr(tokenizer, "bos_token_id", None) else []
    return first + ids[len(ids) - num + len(first) :]


def _cut_document(prompt: _Prompt, num: int, how: str) -> list[dict[str, str]]:
    *before, user = prompt.messages
    document = user["content"][: prompt.num_document_chars]
    rest = user["content"][prompt.num_document_chars :]
    kept = document[:num] if how == "truncate_tail" else document[len(document) - num :]
    content = (kept.strip() + rest).strip()
    return [*before, {**user, "content": content}]
