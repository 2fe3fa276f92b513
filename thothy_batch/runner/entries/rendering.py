"""Renders an entry's values to the token ids of its prompt, in this process or in a worker."""

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from thothy_batch.engine.core import Limits, why_unfit
from thothy_batch.engine.model_info import AnyTokenizer, ModelInfo
from thothy_batch.kinds import Kind, TemplateProblem, render
from thothy_batch.model.tokenizer import ChatRefusedError, ChatSettings
from thothy_batch.plan import request_key
from thothy_batch.records import FailureCode, Request, Sampling

TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Draft:
    """The part of an entry that a worker needs."""

    job_index: int
    variables: dict[str, object]
    sampling: Sampling
    num_samples: int
    stage: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt and its request key, or the reason why it cannot be rendered."""

    prompt_token_ids: "array[int]"
    request_key: str = ""
    code: FailureCode | None = None
    message: str = ""
    flags: tuple[str, ...] = ()  # the draft's, and `truncated` where the prompt was cut


@dataclass(frozen=True, slots=True)
class RenderContext:
    """Everything that the entries of a run share. Sent to each worker once."""

    kinds: tuple[Kind, ...]  # by job index
    on_too_long: tuple[str, ...]
    chats: tuple[ChatSettings, ...]
    model_info: ModelInfo
    run_seed: int
    limits: Limits

    def tokenizer_of(self, job_index: int, *, on_fixed_day: bool = False) -> AnyTokenizer | None:
        """The tokenizer with a job's settings of the chat template.

        `on_fixed_day`: the template's clock shows the day that all request keys share.
        """
        tokenizer, chat = self.model_info.tokenizer, self.chats[job_index]
        if tokenizer is None:
            return None
        return tokenizer.with_chat(chat.on_fixed_day() if on_fixed_day else chat)


Render = Callable[[Sequence[Draft]], list[Rendered]]


def make_renderer(context: RenderContext) -> Render:
    """The function that renders drafts; picklable as `partial(make_renderer, context)`."""
    return partial(_render_all, context)


def make_worker(context: RenderContext) -> Render:
    """`make_renderer` for a worker process, where the tokenizer must not start threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return make_renderer(context)


def _render_all(context: RenderContext, drafts: Sequence[Draft]) -> list[Rendered]:
    return [_render_one(context, draft) for draft in drafts]


class _Unusable(Exception):  # noqa: N818  (a finding about a row, not a program error)
    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Token ids, and the messages that they came from where the document can be truncated."""

    ids: list[int]
    messages: list[dict[str, str]]
    num_document_chars: int = 0
    reads_clock: bool = False  # its template may print the date


def _render_one(context: RenderContext, draft: Draft) -> Rendered:
    tokenizer = context.tokenizer_of(draft.job_index)
    try:
        prompt = _prompt(context, draft, tokenizer)
        if not prompt.ids:
            raise _Unusable(FailureCode.INVALID_INPUT, "the prompt has no tokens")
        ids, flags = _fit(context, draft, prompt, tokenizer)
        key_ids, key_flags = ids, flags
        if prompt.reads_clock:
            key_ids, key_flags = _on_fixed_day(context, draft)
    except _Unusable as unusable:
        return Rendered(array("i"), code=unusable.code, message=unusable.message)
    kind = context.kinds[draft.job_index]
    key = request_key(
        model_fingerprint=context.model_info.fingerprint,
        prompt_token_ids=key_ids,
        sampling=draft.sampling,
        num_samples=draft.num_samples,
        kind_hash=kind.content_hash,
        output_schema=kind.output.as_json(),
        run_seed=context.run_seed,
        beyond_prompt=_beyond_prompt(kind, draft, key_flags),
        may_draw=kind.retry_temperature is not None,
    )
    return Rendered(array("i", ids), key, flags=flags)


def _on_fixed_day(context: RenderContext, draft: Draft) -> tuple[list[int], tuple[str, ...]]:
    """The ids and flags of the prompt as it would be on the day that all request keys share.

    It is cut by its own length: a longer name of the month must not change the key.
    """
    fixed = context.tokenizer_of(draft.job_index, on_fixed_day=True)
    prompt = _prompt(context, draft, fixed)
    try:
        return _fit(context, draft, prompt, fixed)
    except _Unusable:  # by a few tokens, which the run's own date does not take
        return prompt.ids, draft.flags


def _beyond_prompt(kind: Kind, draft: Draft, flags: tuple[str, ...]) -> dict[str, object]:
    """Inputs of the artifact that are not part of the first prompt.

    Two rows may render to the same first prompt, one of them truncated or from an incomplete
    group, and two jobs may differ only in the variables of a later stage.
    """
    beyond: dict[str, object] = {"flags": flags} if flags else {}
    if len(kind.stages) > 1:
        beyond["variables"] = draft.variables
    return beyond


def _prompt(context: RenderContext, draft: Draft, tokenizer: AnyTokenizer | None) -> _Prompt:
    kind, model = context.kinds[draft.job_index], context.model_info
    if kind.raw and "prompt_token_ids" in draft.variables:
        ids = draft.variables["prompt_token_ids"]
        assert isinstance(ids, Sequence | array)
        return _Prompt(_checked_ids(list(ids), model.vocab_size), [])
    if tokenizer is None:
        raise _Unusable(
            FailureCode.INVALID_INPUT,
            f"model {model.name!r} has no tokenizer.json: only prompt_token_ids can be used",
        )
    if kind.raw:
        ids = tokenizer.encode_raw(str(draft.variables["prompt"]))
        return _Prompt(_known_ids(ids, model), [])
    try:
        prompt = render(kind, draft.stage, draft.variables)
    except TemplateProblem as problem:
        raise _Unusable(FailureCode.TEMPLATE_ERROR, str(problem)) from None
    ids = _known_ids(_chat_ids(tokenizer, prompt.messages), model)
    return _Prompt(ids, prompt.messages, prompt.num_document_chars, tokenizer.reads_clock)


def _chat_ids(tokenizer: AnyTokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    try:
        return tokenizer.chat_ids(messages)
    except ChatRefusedError as error:
        raise _Unusable(FailureCode.TEMPLATE_ERROR, error.message) from None


def _known_ids(ids: list[int], model: ModelInfo) -> list[int]:
    """Return a text's ids. A tokenizer may have tokens for which the model has no embedding."""
    if ids and max(ids) >= model.vocab_size:
        raise _Unusable(
            FailureCode.INVALID_INPUT,
            f"the tokenizer makes the id {max(ids)} of the prompt, but ids of model {model.name!r} "
            f"go from 0 to {model.vocab_size - 1}: a token of tokenizer_config.json or "
            "tokenizer.json is not in the model's vocabulary",
        )
    return ids


def _checked_ids(ids: list[int], vocab_size: int) -> list[int]:
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        place = next(i for i, token in enumerate(ids) if not 0 <= token < vocab_size)
        raise _Unusable(
            FailureCode.INVALID_INPUT,
            f"prompt_token_ids[{place}] is {ids[place]}: ids go from 0 to {vocab_size - 1}",
        )
    return ids


def _fit(
    context: RenderContext, draft: Draft, prompt: _Prompt, tokenizer: AnyTokenizer | None
) -> tuple[list[int], tuple[str, ...]]:
    """The prompt's ids, truncated where they are too many and the job allows it, and the flags."""
    message = _why_unfit(context, draft, prompt.ids)
    if not message:
        return prompt.ids, draft.flags
    how = context.on_too_long[draft.job_index]
    if how == "fail":
        raise _Unusable(FailureCode.PROMPT_TOO_LONG, message)
    if context.kinds[draft.job_index].raw:
        cut = _longest(len(prompt.ids), lambda n: _cut_ids(prompt.ids, n, how, tokenizer))
    else:
        assert tokenizer is not None
        cut = _longest(
            prompt.num_document_chars, lambda n: _chat_ids(tokenizer, _cut_document(prompt, n, how))
        )
    best = cut(lambda ids: not _why_unfit(context, draft, ids))
    if best is None:
        raise _Unusable(FailureCode.PROMPT_TOO_LONG, f"{message}, even with the document cut away")
    is_flagged = TRUNCATED in draft.flags
    return best, draft.flags if is_flagged else (*draft.flags, TRUNCATED)


def _why_unfit(context: RenderContext, draft: Draft, ids: Sequence[int]) -> str:
    return why_unfit(
        Request(0, "", ids, draft.sampling, num_samples=draft.num_samples), context.limits
    )


def _longest(
    size: int, make: Callable[[int], list[int]]
) -> Callable[[Callable[[list[int]], bool]], list[int] | None]:
    """A search for the longest cut (1..size-1 units kept) that is accepted; it returns None where
    none is."""

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
