"""Texts on which tokenizers differ, and our tokenizer beside transformers'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.model.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "Hello, world!",
    "",
    " ",
    " leading and trailing ",
    "a  b   c\n\n\td\r\n    indented",
    "Zażółć gęślą jaźń, 日本語のテキスト, عربى, हिन्दी, é (combining: e\u0301)",
    "😀 👩‍👩‍👧 \u200b\ufeff\ufffd \U000f0000",
    "1234567890 3.14 -- x=y; `code` <b>bold</b> 'quotes' \"double\"",
    "▁ already here, and ĠGPT's own",
    "word " * 200,
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts on which tokenizers differ: spaces, scripts, emoji, private characters."""
    return TEXTS


@pytest.fixture(scope="session")
def pair(shared: Path) -> Callable[[str], tuple[Tokenizer, Any]]:
    """Our tokenizer and transformers', by name."""
    from transformers import AutoTokenizer

    made: dict[str, tuple[Tokenizer, Any]] = {}

    def get(name: str) -> tuple[Tokenizer, Any]:
        if name not in made:
            directory = shared / "data" / "tokenizers" / name
            if not directory.is_dir():
                directory = shared / "data" / "weights" / name
            oracle = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            made[name] = Tokenizer.from_dir(directory), oracle
        return made[name]

    return get


@pytest.fixture
def stories(shared: Path, tmp_path: Path) -> Path:
    """A copy of a small tokenizer that puts <s> before every text, to change in tests."""
    source = shared / "data" / "weights" / "stories260K"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    return tmp_path
