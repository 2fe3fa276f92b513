"""The corpus: made-up products and video notes, with the artifacts that the kinds ask for.

An item is drawn from a `random.Random`; its text and the targets (summary, hook, translation,
report) are built from the same values, so every target is right by construction. Names are
composed of syllable groups; one combination in eight is held out: it never occurs in training,
and only held-out names are used for evaluation and for the sample files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from zlib import crc32

import fillers
import phrases

# Chosen so that the tokenizer cuts every name into its three groups.
STARTS = (
    *("Vel", "Kin", "Bel", "Fen", "Gal", "Hal", "Jun", "Kal", "Lum", "Pel", "Quin", "Ros", "Sil"),
    *("Tam", "Wen", "Zel", "Bran", "Cas", "Dren", "Fal", "Gran", "Hest", "Ist", "Kest", "Lin"),
    *("Mal", "Ost"),
)
MIDDLES = ("ab", "ig", "um", "en", "is", "ot", "al", "in", "on", "us", "im", "ob", "el", "om")
ENDS = (
    *("ora", "ix", "ano", "us", "eth", "ina", "ow", "ark", "elo", "und", "aro", "onn", "eska"),
    *("imo", "uva", "att", "ent", "ulla", "issa", "ado", "omi", "ular", "etto", "osk", "ene"),
    *("ami", "ilo"),
)
ARTICLES = {
    "en": {"m": ("the", "the", "it"), "f": ("the", "the", "it"), "n": ("the", "the", "it")},
    "de": {"m": ("der", "den", "er"), "f": ("die", "die", "sie"), "n": ("das", "das", "es")},
    "es": {"m": ("el", "el", ""), "f": ("la", "la", "")},
}


@dataclass(frozen=True)
class Fact:
    """One figure of an item: its verb in each language and the figure as it is written."""

    verbs: tuple[str, str, str]
    figure: str


@dataclass(frozen=True)
class Item:
    """One made-up thing. `texts` holds the text per language (English only when it is long)."""

    name: str
    category: str
    is_video: bool
    facts: tuple[Fact, Fact, Fact]
    extras: tuple[str, ...]
    texts: dict[str, str]

    @property
    def text(self) -> str:
        """The English text, which is what the kinds are given."""
        return self.texts["en"]

    @property
    def subject(self) -> str:
        """How English targets name the item."""
        return f"{self.name} {self.category}"

    @property
    def figures(self) -> list[str]:
        """The three figures, as written in the text."""
        return [fact.figure for fact in self.facts]


def is_held_out(word: str) -> bool:
    """Whether a name's first word is kept out of training (fixed by its hash)."""
    return crc32(word.encode()) % 8 == 0


def draw_names(rng: random.Random, count: int, *, held_out: bool) -> list[str]:
    """Names that have no syllable group in common, some with a model number.

    Three groups each, because the model learns which pairs never occur if pairs are held out.
    """
    words: list[str] = []
    while not words or any(is_held_out(word) != held_out for word in words):
        parts = (rng.sample(groups, count) for groups in (STARTS, MIDDLES, ENDS))
        words = ["".join(groups) for groups in zip(*parts, strict=True)]
    return [f"{word} {rng.randrange(2, 100)}" if rng.random() < 0.3 else word for word in words]


def draw_facts(rng: random.Random, *, is_video: bool) -> tuple[Fact, Fact, Fact]:
    """Price (or running time of a video) and two more facts, all figures different."""
    kinds = phrases.VIDEO_FACTS if is_video else phrases.PRODUCT_FACTS
    facts: list[Fact] = []
    for kind in (kinds[0], *rng.sample(kinds[1:], 2)):
        verbs, unit, low, high, decimals = phrases.FACTS[kind]
        value = rng.uniform(low, high) if rng.random() < 0.5 else low * (high / low) ** rng.random()
        facts.append(Fact(verbs, f"{value:.{decimals}f} {unit}"))
    return facts[0], facts[1], facts[2]


def _slots(rng: random.Random, item: tuple[str, str, bool], facts: tuple[Fact, ...]) -> list[dict]:
    """The values of all slots for one sentence, per language."""
    name, category, is_video = item
    table = phrases.VIDEOS if is_video else phrases.PRODUCTS
    german, gender_de, spanish, gender_es = table[category]
    nouns = {"en": f"{name} {category}", "de": f"{german} {name}", "es": f"{spanish} {name}"}
    genders = {"en": "n", "de": gender_de, "es": gender_es}
    parts = rng.choice(phrases.VIDEO_PARTS if is_video else phrases.PRODUCT_PARTS)
    drawn = {slot: rng.choice(values) for slot, values in phrases.SLOTS.items()}
    full_subject = rng.random() < 0.25
    values = []
    for index, lang in enumerate(phrases.LANGS):
        nominative, accusative, pronoun = ARTICLES[lang][genders[lang]]
        slots = {slot: words[index] for slot, words in drawn.items()}
        slots |= {"N": f"{nominative} {nouns[lang]}", "A": f"{accusative} {nouns[lang]}"}
        slots |= {"n": slots["N"], "P": pronoun, "p": pronoun, "part": parts[index]}
        slots["S"] = slots["N"] if full_subject else pronoun
        for number, fact in enumerate(facts, start=1):
            slots |= {f"v{number}": fact.verbs[index], f"f{number}": fact.figure}
        values.append(slots)
    return values


def _fill(template: str, slots: dict[str, str]) -> str:
    """Fill one template; every sentence of it starts with a capital letter."""
    filled = template.format_map(slots).strip()
    sentences = [part.strip() for part in filled.split(". ")]
    return ". ".join(part[0].upper() + part[1:] for part in sentences).replace("  ", " ")


def draw_item(
    rng: random.Random, num_words: int, *, held_out: bool, is_video: bool, name: str | None = None
) -> Item:
    """An item whose English text has `num_words` words or a few more."""
    name = name or draw_names(rng, 1, held_out=held_out)[0]
    category = rng.choice(tuple(phrases.VIDEOS if is_video else phrases.PRODUCTS))
    facts = draw_facts(rng, is_video=is_video)
    own = fillers.VIDEO_ONLY if is_video else fillers.PRODUCT_ONLY
    pool = [*fillers.SHARED, *own]
    translated = num_words <= 80
    if not translated:
        pool += [(sentence,) for sentence in fillers.LONG]
    rng.shuffle(pool)
    templates = [rng.choice(phrases.OPENINGS), rng.choice(phrases.MEASURES)]
    sentences: dict[str, list[str]] = {lang: [] for lang in phrases.LANGS}
    while sum(len(sentence.split()) for sentence in sentences["en"]) < num_words:
        template = templates.pop(0) if templates else pool.pop(0)
        slots = _slots(rng, (name, category, is_video), facts)
        for lang, form, values in zip(phrases.LANGS, template, slots, strict=False):
            sentences[lang].append(_fill(form, values))
        if not templates and not pool:
            break
    langs = phrases.LANGS if translated else ("en",)
    texts = {lang: " ".join(sentences[lang]) for lang in langs}
    return Item(name, category, is_video, facts, tuple(sentences["en"][2:]), texts)


def draw_group(
    rng: random.Random, num_words: int, num_items: int, *, held_out: bool, video_share: float = 0.4
) -> list[Item]:
    """Items for one report: products and video notes with names that are well apart."""
    return [
        draw_item(rng, num_words, held_out=held_out, is_video=rng.random() < video_share, name=name)
        for name in draw_names(rng, num_items, held_out=held_out)
    ]
