"""Workloads for any engine: prompts of token ids with exact output lengths.

Generated prompts consist of random tokens: their content does not change their cost.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from thothy_batch.errors import ManifestError
from thothy_batch.records import Request, Sampling, TokenIds

DEFAULT_REQUESTS = 256
MAX_TOKENS = 1 << 24  # of a prompt or an output; no model's context is longer
_LENGTHS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?/(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was not run, by name, and the reason."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests to run. The request_key of each is its name."""

    description: str
    requests: list[Request]
    refused: tuple[Refusal, ...] = ()  # unusable rows of a file

    def first(self, num: int) -> "Workload":
        """The workload of the first `num` requests."""
        if num >= len(self.requests):
            return self
        description = f"{self.description}, the first {num:,}"
        return replace(self, description=description, requests=self.requests[:num])


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompt and output lengths in tokens, each uniform between two ends, both included."""

    prompt: tuple[int, int]
    output: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """Parse `100-1024/100-1024` or `778/128`: prompt, then output. Raises ManifestError."""
        match = _LENGTHS.fullmatch(text)
        if match is not None:
            a, b, c, d = match.groups()
            lengths = cls((int(a), int(b or a)), (int(c), int(d or c)))
            ends = (lengths.prompt, lengths.output)
            if all(1 <= low <= high <= MAX_TOKENS for low, high in ends):
                return lengths
        raise ManifestError(
            f"--lengths {text!r}: not the lengths of prompts and outputs",
            hint="write them as 778/128, or as 100-1024/100-1024 where they vary; "
            f"{MAX_TOKENS:,} is the most",
        )

    def __str__(self) -> str:
        return "/".join(_range_text(*ends) for ends in (self.prompt, self.output))


def is_length(value: object) -> TypeGuard[int]:
    """True for a possible number of tokens of a prompt or an output."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_TOKENS


def greedy(number: int, name: str, prompt: TokenIds, max_tokens: int) -> Request:
    """A greedy request with exactly `max_tokens` output tokens."""
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True, repetition_stop=False)
    return Request(number, name, prompt, sampling)


def lengths_workload(
    lengths: Lengths, *, num_requests: int = DEFAULT_REQUESTS, vocab_size: int, seed: int = 0
) -> Workload:
    """Generate requests without shared prefixes."""
    rng = np.random.default_rng(seed)
    sizes = _draw(rng, lengths, num_requests)
    requests = [
        greedy(number, f"request {number + 1}", random_tokens(rng, prompt, vocab_size), output)
        for number, (prompt, output) in enumerate(sizes)
    ]
    return Workload(f"{num_requests:,} requests of {lengths} tokens", requests)


def documents_workload(
    num_documents: int,
    *,
    document_tokens: int,
    artifacts: int,
    lengths: Lengths,
    vocab_size: int,
    seed: int = 0,
) -> Workload:
    """Generate documents, each shared by several prompts, in random order.

    `lengths`: of the part after the document, and of the output.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, TokenIds, int]] = []
    for document in range(1, num_documents + 1):
        head = random_tokens(rng, document_tokens, vocab_size)
        for artifact, (tail, output) in enumerate(_draw(rng, lengths, artifacts), 1):
            prompt = head + random_tokens(rng, tail, vocab_size)
            rows.append((f"document {document} artifact {artifact}", prompt, output))
    order = rng.permutation(len(rows)).tolist()
    return Workload(
        f"{num_documents:,} documents of {document_tokens:,} tokens, {artifacts} artifacts each "
        f"of {lengths} tokens",
        [greedy(number, *rows[index]) for number, index in enumerate(order)],
    )


def random_tokens(rng: np.random.Generator, num: int, vocab_size: int) -> "array[int]":
    """Random ids of the vocabulary. Stop tokens are harmless: outputs ignore them."""
    return array("i", rng.integers(0, vocab_size, num, np.int32).tobytes())


def _draw(rng: np.random.Generator, lengths: Lengths, num: int) -> Sequence[tuple[int, int]]:
    prompts, outputs = (
        rng.integers(low, high + 1, num).tolist() for low, high in (lengths.prompt, lengths.output)
    )
    return list(zip(prompts, outputs, strict=True))


def _range_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
