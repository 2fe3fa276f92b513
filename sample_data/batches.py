"""Training rows: one shared prefix (system and document) and a branch per artifact.

The branches of a row see the prefix and themselves, not each other, and each one continues the
positions of the prefix: every branch is exactly the sequence that the product would run, but the
document is computed once.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer

import prompts
import targets
from corpus import Item, draw_group, draw_item

PROMPT_WEIGHT = 0.1  # of a document token, and only one in five counts: logits cost time
PROMPT_SHARE = 0.2
NAME_WEIGHT = 3.0  # of a name's token in a target: names are what is hardest to copy
DRILL_SHARE, LATE_DRILL_SHARE = 0.5, 0.4  # of the rows, until late in training and then
PAD_ID = 0


@dataclass
class Row:
    """Token ids with position, branch (0 is the prefix) and loss weight each."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, ids: list[int], first_position: int, branch: int, weight: float) -> None:
        """Append a stretch of tokens of one branch."""
        self.ids += ids
        self.positions += range(first_position, first_position + len(ids))
        self.branches += [branch] * len(ids)
        self.weights += [weight] * len(ids)


def _single(rng: random.Random, item: Item) -> list[tuple[str, str]]:
    """(instruction, target) pairs for one item."""
    wanted: list[tuple[str, dict, str]] = []
    for _ in range(2):
        max_words = rng.choice((60, 60, 60, 40, 30, 20, 100, rng.randrange(5, 130)))
        params = {"max_words": max_words}
        wanted.append(("summary", params, targets.summary(item, max_words)))
    for _ in range(2):
        max_words = rng.choice((16, 16, 16, 12, 20, rng.randrange(8, 40)))
        params = {"max_words": max_words}
        wanted.append(("hook", params, targets.hook(rng, item, max_words)))
    for lang in ("de", "es"):
        if lang in item.texts:
            wanted.append(("translation", {"target_lang": lang}, item.texts[lang]))
    if rng.random() < 0.25:
        wanted.append(("report", {}, targets.report([item])))
    return [
        (prompts.render_parts(kind, [item.text], **values)[2], target)
        for kind, values, target in wanted
    ]


def _drill(rng: random.Random) -> tuple[str, list[str], tuple[str, str]]:
    """Document, names and one pair: several subjects, to be repeated in another order.

    No kind asks for this. It teaches to go on with a name as it stands in the text.
    """
    items = [draw_item(rng, 18, held_out=False, is_video=False) for _ in range(rng.randrange(4, 9))]
    sentences = [targets.key_sentence(item, 1) for item in items]
    order = rng.sample(sentences, len(sentences))
    question = "Task: list. Repeat the sentences above in any order."
    return " ".join(sentences), [item.name for item in items], (question, "\n".join(order))


def _num_words(rng: random.Random, progress: float) -> int:
    """Curriculum: short texts first, the full range of lengths later."""
    if progress < 0.15 or rng.random() < (0.75 if progress < 0.8 else 0.5):
        return rng.randrange(18, 46)
    if progress < 0.4 or rng.random() < 0.5:
        return rng.randrange(30, 110)
    return rng.randrange(60, 401)


def draw_row(rng: random.Random, tokenizer: Tokenizer, progress: float) -> Row:
    """One training row: a document with its artifacts, or a group with its report."""
    if rng.random() < (DRILL_SHARE if progress < 0.75 else LATE_DRILL_SHARE):
        system = prompts.render_parts("report", [""])[0]
        document, names, pair = _drill(rng)
        return _row(tokenizer, system, document, [pair], names, rng)
    num_words = _num_words(rng, progress)
    num_items = rng.choice((1, 1, 1, 2, 2, 3, 3))
    if num_items > 1:
        num_words = min(num_words, 560 // num_items)
    items = draw_group(rng, num_words, num_items, held_out=False)
    system, document, instruction = prompts.render_parts("report", [item.text for item in items])
    pairs = _single(rng, items[0])
    if num_items > 1:
        pairs = [(instruction, targets.report(items))]
    return _row(tokenizer, system, document, pairs, [item.name for item in items], rng)


def _row(
    tokenizer: Tokenizer,
    system: str,
    document: str,
    pairs: list[tuple[str, str]],
    names: list[str],
    rng: random.Random,
) -> Row:
    """Encode the prefix and one branch per pair."""
    encode = tokenizer.encode
    head = encode(prompts.prefix(system, ""), add_special_tokens=False).ids
    prefix = encode(prompts.prefix(system, document), add_special_tokens=False).ids
    row = Row()
    row.add(prefix[: len(head)], 0, 0, 0.0)
    row.add(prefix[len(head) :], len(head), 0, 0.0)
    for index in rng.sample(range(len(head), len(prefix)), int(PROMPT_SHARE * len(prefix))):
        row.weights[index] = PROMPT_WEIGHT
    for number, (question, target) in enumerate(pairs, start=1):
        asked = encode(prompts.branch(question), add_special_tokens=False).ids
        told = encode(target + "<|im_end|>", add_special_tokens=False)
        row.add(asked, len(prefix), number, 0.0)
        row.add(told.ids, len(prefix) + len(asked), number, 1.0)
        weights = _target_weights(told.offsets, target, names)
        row.weights[-len(weights) :] = weights
    return row


def _target_weights(offsets: list[tuple[int, int]], target: str, names: list[str]) -> list[float]:
    """1 for each token of the target, `NAME_WEIGHT` where it lies in a name."""
    spans = [match.span() for name in names for match in re.finditer(re.escape(name), target)]
    return [
        NAME_WEIGHT if any(first - 1 <= a and b <= last for first, last in spans) else 1.0
        for a, b in offsets
    ]


def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
    """Pad rows to one length [S, T]; mask [S, 1, T, T] is True where a token may look."""
    longest = max(len(row.ids) for row in rows)

    def pad(name: str, value: float) -> torch.Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([one + [value] * (longest - len(one)) for one in lists])

    ids, branches = pad("ids", PAD_ID), pad("branches", -1)
    query, key = branches[:, :, None], branches[:, None, :]
    mask = ((key == 0) | (key == query)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    labels, weights = ids.roll(-1, dims=1), pad("weights", 0.0).roll(-1, dims=1)
    follows = branches.roll(-1, dims=1) == branches
    follows[:, -1] = False
    return {
        "input_ids": ids,
        "position_ids": pad("positions", 0),
        "attention_mask": mask[:, None],
        "labels": labels,
        "weights": weights * follows,
    }


def batches(rng: random.Random, tokenizer: Tokenizer, num_tokens: int):
    """Endless batches of about `num_tokens`, rows of like length together; send the progress."""
    progress = 0.0
    while True:
        rows = [draw_row(rng, tokenizer, progress) for _ in range(96)]
        rows.sort(key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > num_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            progress = (yield collate(group)) or progress
