"""Trains the byte-level BPE tokenizer on the corpus and writes the tokenizer files.

Every byte has a token, nothing is normalised and digits stand alone, so any text comes back
exactly. Names are shown split into their syllable groups: a held-out name then has as many
tokens as one from training, and copying it is the same task.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import prompts
import targets
from corpus import STARTS, draw_item

VOCAB_SIZE = 2048
CONTEXT = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _split_names(text: str, name: str) -> str:
    """`Velinora` becomes `Vel`, `in` and `ora`, a line break between, wherever it stands."""
    word = name.split()[0]
    start = next(start for start in STARTS if word.startswith(start))
    middle, end = word[len(start) :][:2], word[len(start) + 2 :]
    return text.replace(word, f"{start}\n{middle}\n{end}")


def _texts(seed: int, num_items: int) -> Iterator[str]:
    """Texts, translations, targets and instructions of training items."""
    rng = random.Random(seed)
    for index in range(num_items):
        num_words = rng.choice((30, 30, 60, 60, 200))
        item = draw_item(rng, num_words, held_out=False, is_video=index % 3 == 0)
        parts = [*item.texts.values(), targets.report([item])]
        parts += [targets.hook(rng, item, 16) for _ in range(3)]
        yield from (_split_names(part, item.name) for part in parts)
        kind = ("summary", "hook", "translation", "report")[index % 4]
        target_lang = rng.choice(("de", "es"))
        yield "\n".join(
            prompts.render_parts(kind, ["x"] * (index % 3 + 1), target_lang=target_lang)
        )
    yield from (f" {part}" for part in STARTS for _ in range(200))


def train_tokenizer(seed: int, num_items: int = 4000) -> Tokenizer:
    """The trained tokenizer: digits one by one, then byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, num_items), trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": prompts.CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
