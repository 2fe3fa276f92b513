"""Fake model: a model and tokenizer without weights, for tests of engine, runner and CLI.

The next token is a function of the last token, its position and, unless sampling is greedy, the
row's seed. `builtin:fake?step_ms=5&fail=memory&fail_at_step=20` sets the knobs below.
"""

import codecs
import os
import signal
import time
from collections import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

import numpy as np

from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer import ChatSettings
from thothy_batch.records import TokenIds

FAKE_ID = "builtin:fake"
FAKE_CONTEXT = 4096
FAKE_STOP_ID = 0
FAKE_BYTES_PER_TOKEN = 64  # of its KV, which exists in the bookkeeping only
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz aeiou e t n", dtype=np.uint8)


def is_fake(model_id: str) -> bool:
    return model_id.split("?")[0] == FAKE_ID


@dataclass(frozen=True, slots=True)
class FakeKnobs:
    """Settings of the fake model's behaviour."""

    step_ms: float = 0.0
    load_ms: float = 0.0
    context: int = FAKE_CONTEXT
    fail: str = ""  # memory | error | exit | segv | kill | hang
    fail_at_step: int = 0
    poison: int = -1  # fail only in steps that compute this token
    fail_once: str = ""  # a file: fail only if it does not exist, and create it

    @classmethod
    def of(cls, model_id: str) -> "FakeKnobs":
        """Parse "builtin:fake?name=value&..."; raises ModelError for an unknown knob."""
        given = dict(parse_qsl(model_id.partition("?")[2], strict_parsing=False))
        try:
            return cls(
                step_ms=float(given.pop("step_ms", 0)),
                load_ms=float(given.pop("load_ms", 0)),
                context=int(given.pop("context", FAKE_CONTEXT)),
                fail=given.pop("fail", ""),
                fail_at_step=int(given.pop("fail_at_step", 0)),
                poison=int(given.pop("poison", -1)),
                fail_once=given.pop("fail_once", ""),
                **given,
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"model {model_id!r}: {error}") from error


class FakeModelRunner:
    """Computes nothing, but asserts that a real model could compute the batch."""

    def __init__(self, knobs: FakeKnobs, num_blocks: int, block_size: int) -> None:
        self._knobs = knobs
        self._num_slots = num_blocks * block_size
        self._step = 0

    def run(self, batch: Batch) -> Int64Array:
        """Return the next token of each sampled row, int64 [R]."""
        self._step += 1
        if self._knobs.fail and self._should_fail(batch):
            self._fail()
        assert batch.slot_mappings[0].max(initial=-1) < self._num_slots
        if self._knobs.step_ms:
            time.sleep(self._knobs.step_ms / 1000)
        rows = batch.logits_rows
        seeds = np.where(batch.temperature > 0, batch.seeds, 0)
        return next_tokens(batch.token_ids[rows], batch.positions[rows], seeds)

    def _should_fail(self, batch: Batch) -> bool:
        knobs = self._knobs
        if self._step < knobs.fail_at_step:
            return False
        if knobs.poison >= 0 and not (batch.token_ids == knobs.poison).any():
            return False
        if knobs.fail_once:
            try:
                open(knobs.fail_once, "x").close()
            except FileExistsError:
                return False
        return True

    def _fail(self) -> None:
        fail = self._knobs.fail
        if fail == "memory":
            raise MemoryError
        if fail == "exit":
            os._exit(7)
        if fail in ("segv", "kill"):
            os.kill(os.getpid(), signal.SIGSEGV if fail == "segv" else signal.SIGKILL)
        while fail == "hang":
            time.sleep(3600)
        raise RuntimeError("the fake model was asked to fail")


def next_tokens(last: Int64Array, positions: Int64Array, seeds: Int64Array) -> Int64Array:
    """Return letters and spaces, and in 1 of 64 cases the stop token."""
    with np.errstate(over="ignore"):
        mixed = (
            last.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + positions.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
            + seeds.astype(np.uint64)
        )
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
    letters = _LETTERS[(mixed % np.uint64(len(_LETTERS))).astype(np.int64)].astype(np.int64)
    return np.where(mixed >> np.uint64(58) == 0, FAKE_STOP_ID, letters)


class ByteTokenizer:
    """Maps text to its UTF-8 bytes. Byte 0 ends a completion."""

    has_chat_template = False
    reads_clock = False
    chat_notes: abc.Sequence[str] = ()
    stop_token_ids = frozenset({FAKE_STOP_ID})
    vocab_size = 256
    special_token_ids: Mapping[str, int] = {}
    bos_token_id: int | None = None
    eos_token_id: int | None = FAKE_STOP_ID

    def with_chat(self, settings: ChatSettings) -> "ByteTokenizer":
        return self

    def check_chat(self) -> None:
        pass

    def stop_notes(self, vocab_size: int) -> list[str]:
        return []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: abc.Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_raw(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_raw_batch(self, texts: abc.Sequence[str]) -> list[list[int]]:
        return self.encode_batch(texts)

    def decode(self, token_ids: TokenIds | Iterable[int], skip_special: bool = True) -> str:
        return self._bytes(token_ids, skip_special).decode(errors="replace")

    def decode_whole(self, token_ids: TokenIds | Iterable[int], skip_special: bool = True) -> str:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(self._bytes(token_ids, skip_special))

    def is_boundary(self, token_ids: TokenIds | Iterable[int], skip_special: bool = True) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(self._bytes(token_ids, skip_special))
        return not decoder.getstate()[0]

    def _bytes(self, token_ids: TokenIds | Iterable[int], skip_special: bool) -> bytes:
        return bytes(i for i in token_ids if not (skip_special and i == FAKE_STOP_ID))

    def render_chat(self, messages: abc.Sequence[Mapping[str, str]]) -> str:
        return "".join(message["content"] + "\n\n" for message in messages)

    def chat_ids(self, messages: abc.Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode(self.render_chat(messages))

    def chat_ids_batch(
        self, conversations: abc.Sequence[abc.Sequence[Mapping[str, str]]]
    ) -> list[list[int]]:
        return [self.chat_ids(messages) for messages in conversations]
