"""Tokenizers of each kind: small ones, and real ones where the shared folder is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import small_tokenizers

from thothy_batch.model.tokenizer import Tokenizer

REAL = ("gpt2", "gpt-neox-20b", "qwen2", "minimind-6400", "llama2-32k-phi3v", "stories260K")
SMALL = {
    "small byte-level": small_tokenizers.byte_level,
    "small sentencepiece": small_tokenizers.sentencepiece,
}
ADDED = ("<think>", "</think>", "  ", "…")


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """Loads a tokenizer by name, once."""
    shared = Path(__file__).resolve().parents[4] / "shared" / "data"
    loaded: dict[str, Tokenizer] = {}

    def get(name: str) -> Tokenizer:
        if name not in loaded:
            if name in SMALL:
                folder = SMALL[name](tmp_path_factory.mktemp("tokenizer"), ADDED)
            else:
                folders = [shared / kind / name for kind in ("tokenizers", "weights")]
                folder = next((each for each in folders if each.is_dir()), Path())
                if folder == Path():
                    pytest.skip(f"the shared folder has no tokenizer {name}")
            loaded[name] = Tokenizer.from_dir(folder)
        return loaded[name]

    return get


@pytest.fixture(params=[*SMALL, *(pytest.param(name, marks=pytest.mark.rest) for name in REAL)])
def tokenizer(
    request: pytest.FixtureRequest, tokenizer_of: Callable[[str], Tokenizer]
) -> Tokenizer:
    """Each tokenizer in turn."""
    return tokenizer_of(request.param)
