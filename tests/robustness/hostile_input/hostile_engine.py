"""An engine whose every word is hostile: completions, failures, events, notes, its own name.

It wraps the fake engine and replaces what that says, so that prompts, steps and counts are real.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from hostile_rows import CATEGORIES, one_megabyte

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.records import (
    Completion,
    EngineEvent,
    EngineInfo,
    EngineUpdate,
    FailureCode,
    FinishReason,
    Request,
    RequestFailure,
    RequestResult,
)

_FAILED_EVERY = 13
_REASONS = tuple(FinishReason)


class HostileEngine:
    """Answers each request with hostile texts, and now and then with a hostile failure."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self.said: set[str] = set()
        self.prompts: set[bytes] = set()
        self._random = Random(1)
        self._texts = [text for text in map(self._word, CATEGORIES) if text is not None]

    @property
    def info(self) -> EngineInfo:
        info, word = self._engine.info, self._word("terminal_escapes")
        return replace(
            info,
            model=replace(info.model, commit=word, architecture=self._word("markup") or ""),
            versions={**info.versions, word: self._word("right_to_left")},
            notes=(f"a note {word}\n{self._word('right_to_left')}",),
        )

    def submit(self, requests: Sequence[Request]) -> None:
        self.prompts |= {bytes(list(request.prompt_token_ids)) for request in requests}
        self._engine.submit(requests)

    def cancel(self, requests: Sequence[Request]) -> None:
        self._engine.cancel(requests)

    def poll(self, timeout_s: float) -> EngineUpdate:
        update = self._engine.poll(timeout_s)
        results, update.results = update.results, []
        for result in results:
            if result.request_id % _FAILED_EVERY:
                update.results.append(self._result(result))
            else:
                update.failures.append(self._failure(result))
        if results:
            message = f"the engine died: {self._word('terminal_escapes')}\n{self._word('markup')}"
            update.events.append(EngineEvent("engine_died", message, 1, 1))
        return update

    def stop_admitting(self) -> None:
        self._engine.stop_admitting()

    def give_back(self) -> None:
        self._engine.give_back()

    def close(self) -> None:
        self._engine.close()

    def _result(self, result: RequestResult) -> RequestResult:
        completions = tuple(
            self._completion(result.request_id, number) for number in range(len(result.completions))
        )
        self.said |= {completion.text for completion in completions}
        return replace(result, completions=completions)

    def _completion(self, request_id: int, number: int) -> Completion:
        """Texts by turns, each also as a section's heading and body, or as a quoted line."""
        text = self._texts[(request_id + number) % len(self._texts)]
        if request_id % 3 == 0:
            text = f"## {text}\n{text}\n## Overview\n## Findings\n{text}\n## Recommendation ##\n"
        elif request_id % 3 == 1:
            text = f'"{text} {request_id}"'
        token_ids = tuple(text[:4000].encode("utf-8", "replace"))
        return Completion(token_ids, text, _REASONS[request_id % len(_REASONS)])

    def _failure(self, result: RequestResult) -> RequestFailure:
        message = self._texts[result.request_id % len(self._texts)]
        return RequestFailure(result.request_id, FailureCode.ENGINE_ERROR, message)

    def _word(self, category: str) -> str | None:
        """Characters of a category that a decoder could make, halves of pairs included."""
        if category == one_megabyte.__name__:
            return "\u202e" * 20_000
        if category == "blank":
            return "## a" + " " * 20_000 + "b"  # cheap to write, and dear to a careless pattern
        cell = CATEGORIES[category](self._random)
        errors = "surrogatepass" if category == "lone_surrogate" else "replace"
        return None if cell is None else cell.decode("utf-8", errors)
