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

STARTS = (
    *("Vel", "Tar", "Kin", "Mor", "Bel", "Dor", "Fen", "Gal", "Hal", "Jun", "Kal", "Lum", "Mir"),
    *("Nor", "Pel", "Quin", "Ros", "Sil", "Tam", "Ul", "Var", "Wen", "Yar", "Zel", "Bran", "Cas"),
    *("Dren", "Ell", "Fal", "Gran", "Hest", "Ist", "Jor", "Kest", "Lin", "Mal", "Nev", "Ost"),
)
ENDS = (
    *("ora", "ix", "ano", "ea", "us", "eth", "ina", "ow", "ark", "elo", "ita", "und", "aro"),
    *("ia", "onn", "eska", "imo", "uva", "att", "ent", "ovi", "ulla", "ock", "erra", "issa"),
    *("ado", "omi", "ular", "etto", "ax", "osk", "ene", "ami", "ilo"),
)
MIDDLES = (
    *("ab", "ed", "ig", "ol", "um", "ar", "en", "is", "ot", "ul", "al", "er", "in", "on", "us"),
    *("av", "ek", "im", "ob", "ur", "ad", "el", "iv", "om"),
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


def draw_name(rng: random.Random, *, held_out: bool) -> str:
    """A word of three syllable groups, sometimes a second, shorter one or a model number.

    Three groups, because the model learns which pairs never occur if pairs are held out.
    """
    word = rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(ENDS)
    if is_held_out(word) != held_out:
        return draw_name(rng, held_out=held_out)
    chance = rng.random()
    if chance < 0.2:
        return f"{word} {rng.choice(STARTS)}{rng.choice(ENDS)}"
    return f"{word} {rng.randrange(2, 100)}" if chance < 0.4 else word


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


def draw_item(rng: random.Random, num_words: int, *, held_out: bool, is_video: bool) -> Item:
    """An item whose English text has about `num_words` words (never more than 60 above it)."""
    name = draw_name(rng, held_out=held_out)
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
