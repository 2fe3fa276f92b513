"""Ids and text equal transformers', without importing it."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import ModelError
from thothy_batch.model.tokenizer.tokenizer import Tokenizer, load_tokenizer

Pair = Callable[[str], tuple[Tokenizer, Any]]
NAMES = ["qwen2", "gpt2", "llama2-32k-phi3v", "gpt-neox-20b", "minimind-6400", "stories260K"]


@pytest.mark.parametrize("name", NAMES)
def test_encoding_equals_transformers(name: str, pair: Pair, texts: list[str]) -> None:
    ours, oracle = pair(name)
    for text in [*texts, "x <|im_end|> <|endoftext|> </s> <|user|>\n y"]:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
        assert ours.encode_raw(text) == oracle.encode(text)
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]


@pytest.mark.parametrize("name", NAMES)
def test_decoding_equals_transformers(name: str, pair: Pair, texts: list[str]) -> None:
    ours, oracle = pair(name)
    for text in [*texts, "x <|im_end|> <|endoftext|> </s> y"]:
        ids = oracle.encode(text)
        assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        assert ours.decode(tuple(ids), skip_special=False) == oracle.decode(ids)
    for start in range(0, ours.vocab_size - 7, ours.vocab_size // 50):  # cut characters among them
        ids = list(range(start, start + 7))
        assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_ids_beyond_the_tokenizer_decode_to_nothing(pair: Pair) -> None:
    ours, _ = pair("qwen2")
    assert ours.decode([9707, 151_900]) == "Hello"


def test_raw_text_that_starts_with_bos_is_not_given_a_second(stories: Path) -> None:
    ours = Tokenizer.from_dir(stories)
    assert ours.encode_raw("<s>Once") == [1, *ours.encode("<s>Once")[1:]]
    assert ours.encode_raw("Once")[0] == 1


def test_stop_ids_unite_three_sources(stories: Path, edit_json: Callable[..., None]) -> None:
    edit_json(stories / "config.json", eos_token_id=5)
    (stories / "generation_config.json").write_text('{"eos_token_id": [7, 1]}')
    assert Tokenizer.from_dir(stories).stop_token_ids == {1, 2, 5, 7}


def test_named_tokens_become_special(stories: Path, edit_json: Callable[..., None]) -> None:
    content = json.loads((stories / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "</s>"]
    (stories / "tokenizer.json").write_text(json.dumps(content))
    edit_json(
        stories / "tokenizer_config.json",
        additional_special_tokens=["<|new|>"],
        pad_token={"__type": "AddedToken", "content": "<pad>"},
    )
    from transformers import AutoTokenizer

    ours = Tokenizer.from_dir(stories)
    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    assert {"</s>", "<pad>", "<|new|>"} <= set(ours.special_token_ids)
    for text in ("a</s>b", "a<|new|>b<pad>"):
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == oracle.decode(
            oracle.encode(text), skip_special_tokens=True
        )
    assert ours.vocab_size == len(oracle)


@pytest.mark.parametrize(
    "settings",
    [
        {"legacy": True},
        {"legacy": False},
        {"add_prefix_space": False},
        {"legacy": None, "add_prefix_space": True},
    ],
)
def test_space_rules_of_llama_files_equal_transformers(
    settings: dict[str, object], stories: Path, texts: list[str]
) -> None:
    from transformers import AutoTokenizer

    path = stories / "tokenizer_config.json"
    raw = json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"} | settings
    path.write_text(json.dumps(raw))
    ours = Tokenizer.from_dir(stories)
    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    for text in [*texts, "a<s>b</s> c"]:
        ids = oracle.encode(text)
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("model_type", ["mistral", "llama", "qwen3"])
def test_the_family_decides_whose_space_rule_counts(
    model_type: str, stories: Path, edit_json: Callable[..., None], texts: list[str]
) -> None:
    from transformers import AutoTokenizer

    edit_json(stories / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    edit_json(stories / "config.json", model_type=model_type)
    ours = Tokenizer.from_dir(stories)
    oracle = AutoTokenizer.from_pretrained(stories, local_files_only=True)
    for text in [*texts, "a<s>b</s> c"]:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)


def test_a_byte_level_file_of_llama_is_taken_as_it_is(
    shared: Path, tmp_path: Path, texts: list[str]
) -> None:
    from transformers import AutoTokenizer

    source = shared / "data" / "tokenizers" / "gpt2" / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": null, "eos_token": "<|endoftext|>",'
        ' "unk_token": null}'
    )
    ours = Tokenizer.from_dir(tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in texts:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text


def test_it_pickles_as_its_directory(stories: Path) -> None:
    ours = pickle.loads(pickle.dumps(Tokenizer.from_dir(stories)))
    assert ours.encode("Once upon") == Tokenizer.from_dir(stories).encode("Once upon")


def test_a_missing_or_broken_file_is_named(stories: Path, tmp_path_factory: Any) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert load_tokenizer(empty) is None
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_dir(empty)
    (stories / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be used"):
        Tokenizer.from_dir(stories)


def test_importing_the_tokenizer_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from thothy_batch.model import fingerprint\n"
        "from thothy_batch.model.checkpoint import locate\n"
        "from thothy_batch.model.config import model_config\n"
        "from thothy_batch.model.tokenizer import tokenizer\n"
        "late = {'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {late}' if late else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
