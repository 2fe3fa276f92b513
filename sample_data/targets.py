"""What a good artifact looks like for an item: the targets that the model learns from."""

from __future__ import annotations

import random

from corpus import Fact, Item

HOOKS = (
    "Meet the {s}: it {v} {f}.",
    "Have you seen the {s}? It {v} {f}.",
    "Stop here: the {s} {v} {f}.",
    "Worth a look: the {s} {v} {f}.",
    "You asked for it: the {s} {v} {f}.",
    "Why does everyone talk about the {s}? It {v} {f}.",
    "Can it be true? The {s} {v} {f}.",
    "One figure to remember: the {s} {v} {f}.",
    "Today we try the {s}, and it {v} {f}.",
    "Look at this: the {s} {v} {f}!",
)
SHORT_HOOKS = ("The {s} {v} {f}.", "The {s} {v} {f}!")
SHORT_HOOK_WORDS = 16
COUNTS = ("one subject", "two subjects", "three subjects")


def num_summary_figures(max_words: int) -> int:
    """How many figures a summary of at most `max_words` words carries."""
    return 3 if max_words >= 16 else 1


def _join(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _does(fact: Fact) -> str:
    return f"{fact.verbs[0]} {fact.figure}"


def key_sentence(item: Item, num_facts: int) -> str:
    """The subject with its first facts."""
    return f"The {item.subject} {_join([_does(fact) for fact in item.facts[:num_facts]])}."


def summary(item: Item, max_words: int) -> str:
    """Name and figures, then as many further sentences of the text as the limit allows."""
    if max_words < 8:
        return f"The {item.name}: {item.facts[0].figure}."
    text = key_sentence(item, num_summary_figures(max_words))
    num_extras = 2 if max_words >= 60 else 1 if max_words >= 40 else 0
    return " ".join([text, *item.extras[:num_extras]])


def hook(rng: random.Random, item: Item, max_words: int) -> str:
    """One of several phrasings with one of the three figures."""
    fact = rng.choice(item.facts)
    template = rng.choice(HOOKS if max_words >= SHORT_HOOK_WORDS else SHORT_HOOKS)
    return template.format(s=item.subject, v=fact.verbs[0], f=fact.figure)


def report(items: list[Item]) -> str:
    """The three sections, with every subject and all its figures."""
    subjects = _join([f"the {item.subject}" for item in items])
    findings = "\n".join(f"- {key_sentence(item, 3)}" for item in items)
    first = items[0]
    return (
        f"## Overview\n\nThis report covers {COUNTS[len(items) - 1]}: {subjects}.\n\n"
        f"## Findings\n\n{findings}\n\n"
        f"## Recommendation\n\nStart with the {first.subject}: it {_does(first.facts[0])}."
    )
