"""The corpus, the tokenizer, the sample files and the folder of the embedded model."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
sys.path.insert(0, str(SAMPLES))

import corpus  # noqa: E402
import evaluate  # noqa: E402
import make_samples  # noqa: E402
import prompts  # noqa: E402
import targets  # noqa: E402

MODEL = SAMPLES / "model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def draw(seed: int, num_words: int = 60, *, held_out: bool = True) -> corpus.Item:
    return corpus.draw_item(random.Random(seed), num_words, held_out=held_out, is_video=False)


def test_held_out_names_never_occur_in_training():
    rng = random.Random(0)
    trained = {corpus.draw_names(rng, 1, held_out=False)[0].split()[0] for _ in range(9000)}
    held_out = {corpus.draw_names(rng, 1, held_out=True)[0].split()[0] for _ in range(500)}
    assert not trained & held_out


def test_one_seed_gives_one_item():
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_every_language_carries_name_and_figures():
    for seed in range(100):
        item = draw(seed)
        for text in item.texts.values():
            assert item.name in text
            assert all(figure in text for figure in item.figures)


def test_texts_reach_the_length_that_was_asked_for():
    for num_words in (20, 100, 400):
        assert num_words <= len(draw(5, num_words).text.split()) <= num_words + 20


@pytest.mark.parametrize("max_words", [5, 7, 8, 15, 16, 39, 40, 60, 200])
def test_summary_targets_keep_the_word_limit(max_words):
    for seed in range(50):
        assert len(targets.summary(draw(seed, 200), max_words).split()) <= max_words


def test_reference_targets_pass_the_judge():
    for case in evaluate.draw_cases(1, 80):
        verdict = evaluate.judge(case, case.reference, ended=True)
        assert verdict["passed"], (case.kind, verdict)


def test_judge_sees_a_wrong_figure():
    case = next(case for case in evaluate.draw_cases(1, 8) if case.kind == "report")
    wrong = case.reference.replace(case.items[0].figures[0], "7.7 kg")
    assert not evaluate.judge(case, wrong, ended=True)["passed"]


def test_prefix_and_branch_are_the_whole_prompt(tokenizer):
    texts = [draw(1).text, draw(2).text]
    for kind in ("summary", "hook", "translation", "report"):
        values = {"target_lang": "de"}
        system, document, instruction = prompts.render_parts(kind, texts, **values)
        apart = tokenizer.encode(prompts.prefix(system, document), add_special_tokens=False)
        apart += tokenizer.encode(prompts.branch(instruction), add_special_tokens=False)
        messages = prompts.render(kind, texts, **values)
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer.encode(whole, add_special_tokens=False) == apart


@pytest.mark.parametrize(
    "text", ["", " a  b\n\n\tc ", "e\u0301 é ﬁ", "日本 🦊\u200d🔥 \x00\x7f", "3141 59"]
)
def test_tokenizer_gives_text_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_tokenizer_adds_no_start_and_splits_digits(tokenizer):
    assert tokenizer.tokenize("349") == ["3", "4", "9"]
    assert tokenizer.encode("349") == tokenizer.encode("349", add_special_tokens=False)
    assert tokenizer.eos_token == "<|im_end|>"


def test_model_folder_is_small_and_stores_tied_weights_once():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 11.5e6
    with safe_open(MODEL / "model.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
        assert tensors.get_slice("model.embed_tokens.weight").get_dtype() == "BF16"
    assert "lm_head.weight" not in names
    config = json.loads((MODEL / "config.json").read_text())
    assert config["tie_word_embeddings"]
    assert config["max_position_embeddings"] == 1024


def test_samples_are_what_the_script_makes():
    for make in (
        make_samples.products,
        make_samples.videos,
        make_samples.notes,
        make_samples.night,
    ):
        stored = pq.read_table(SAMPLES / f"{make.__name__}.parquet")
        assert stored.equals(make_samples.to_table(make()))


def test_samples_hold_the_rows_that_are_wrong_on_purpose(tokenizer):
    table = pq.read_table(SAMPLES / "products.parquet")
    bodies = table["body"].combine_chunks().view(pa.binary()).to_pylist()
    skus = table["sku"].to_pylist()
    assert bodies.count(None) == 1
    assert bodies.count(b"") == 1
    assert len(skus) == len(set(skus)) + 1
    assert sum(b"\xff" in (body or b"") for body in bodies) == 1
    longest = max((record["notes"] or "" for record in make_samples.videos()), key=len)
    assert len(tokenizer.encode(longest)) > 1024
