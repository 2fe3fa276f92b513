"""The decoder against transformers, and against itself in other company."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.model.decoder import Decoder
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import ModelSpec
from thothy_kernels import invariance

IMPLS = ["reference", "cpu"]
MIXED = ["ministral-mixed", "gemma2", "gemma3-1b-heads"]
Make = Callable[..., tuple[Path, Any]]
Logits = Callable[..., tuple[torch.Tensor, float]]


def _prompt(length: int, seed: int = 0, vocab: int = 96) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (length,), generator=generator).tolist()


def _load(directory: Path, impl: str = "reference", dtype: str = "float32") -> LoadedModel:
    return load_decoder(ModelSpec(id=str(directory), dtype=dtype), device="cpu", impl=impl)


def _rms(difference: torch.Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


@pytest.mark.few(6)
@pytest.mark.parametrize("impl", [*IMPLS, "transformers"])
def test_logits_miss_float64_by_no_more_than_the_roundings_of_float32(
    variant: str, impl: str, make_checkpoint: Make, feeder: Any, float64_logits: Logits
) -> None:
    """Contexts longer than any window."""
    directory, oracle = make_checkpoint(variant)
    ids = _prompt(75)
    exact, bound = float64_logits(variant, ids, torch.float32)
    if impl == "transformers":  # in other orders, by other formulas: the bound holds for any
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0]
    else:
        logits = feeder(_load(directory, impl), impl=impl).logits(ids)
    assert logits.dtype == torch.float32
    assert 0 < _rms(logits - exact) < bound


def _rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 with so many bits behind the first; 10 are those of TF32."""
    lost = 23 - bits
    words = x.contiguous().view(torch.int32) + (1 << (lost - 1))
    return (words >> lost << lost).view(torch.float32)


def _narrow_inputs(decoder: Any, name: str, bits: int) -> None:
    layer = decoder._layers[-1]
    exact = getattr(layer, name)
    setattr(layer, name, lambda x: exact(_rounded(x, bits)))


def _other_eps(decoder: Any) -> None:
    layer = decoder._layers[0]
    layer._config = replace(layer._config, rms_norm_eps=layer._config.rms_norm_eps / 2)


def _other_scale(decoder: Any) -> None:
    decoder._layers[0]._scale *= 1 + 1e-5


def _narrow_table(decoder: Any) -> None:
    layer = decoder._layers[-1]
    layer._cos_sin = _rounded(layer._cos_sin, 10)


# Each in one layer alone.
FAULTS: dict[str, Callable[[Any], None]] = {
    "eps halved": _other_eps,
    "scale of scores 1e-5 too large": _other_scale,
    "cosines of 10 bits": _narrow_table,
    "attended values of 10 bits": lambda decoder: _narrow_inputs(decoder, "_o", 10),
    "normed rows of 10 bits": lambda decoder: _narrow_inputs(decoder, "_gate_up", 10),
    "inner values of bfloat16": lambda decoder: _narrow_inputs(decoder, "_down", 7),
}


@pytest.mark.rest
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma2-2b-heads", "gemma3-1b-heads"])
def test_faults_miss_float64_by_more(
    variant: str, fault: str, make_checkpoint: Make, feeder: Any, float64_logits: Logits
) -> None:
    ids = _prompt(75)
    exact, bound = float64_logits(variant, ids, torch.float32)
    model = _load(make_checkpoint(variant)[0])
    FAULTS[fault](model.decoder)
    assert _rms(feeder(model).logits(ids) - exact) > 2 * bound


@pytest.mark.few(8)
def test_greedy_tokens_equal_transformers(variant: str, make_checkpoint: Make, feeder: Any) -> None:
    directory, oracle = make_checkpoint(variant)
    prompt = _prompt(21, seed=2)
    with torch.no_grad():
        expected = oracle.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=-1
        )
    assert feeder(_load(directory)).greedy(prompt, 24) == expected[0, len(prompt) :].tolist()


@pytest.mark.few(3)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", ["qwen3", *MIXED])
def test_bfloat16_misses_float64_by_no_more_than_its_roundings(
    variant: str, impl: str, make_checkpoint: Make, feeder: Any, float64_logits: Logits
) -> None:
    """Those of transformers, which rounds each step's result; we round fewer. Same weights."""
    ids = _prompt(60)
    exact, bound = float64_logits(variant, ids, torch.bfloat16)
    ours = feeder(_load(make_checkpoint(variant)[0], impl, "bfloat16"), impl=impl).logits(ids)
    assert ours.dtype == torch.float32
    assert 0 < _rms(ours - exact) < bound


@pytest.mark.few(4)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", ["llama-odd-heads", "qwen2", "qwen3", *MIXED])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    variant: str, impl: str, make_checkpoint: Make, feeder: Any
) -> None:
    feed = feeder(_load(make_checkpoint(variant)[0], impl), impl=impl)
    prompts = [_prompt(length, seed=length) for length in (3, 33, 1, 17, 60)]
    alone = [feed.logits(ids) for ids in prompts]
    together = feed.step([(ids, 0, feed.table(len(ids))) for ids in prompts])
    for one, in_batch in zip(alone, together.split([len(p) for p in prompts]), strict=True):
        assert torch.equal(one, in_batch)


@pytest.mark.few(4)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("variant", "length", "chunk"),
    [
        ("qwen3", 50, 1),
        ("qwen3", 50, 7),
        ("qwen3", 50, 16),
        ("qwen3", 600, 130),
        ("gemma3-linear-bias", 50, 1),
        ("gemma3-linear-bias", 600, 130),
        ("gemma2-2b-heads", 90, 7),
    ],
)
def test_a_prompt_has_the_same_bits_whole_and_in_chunks(
    variant: str, length: int, chunk: int, impl: str, make_checkpoint: Make, feeder: Any
) -> None:
    model = _load(make_checkpoint(variant)[0], impl)
    feed = feeder(model, impl=impl, num_pages=300)
    ids = _prompt(length)
    whole = feed.logits(ids)
    table = feed.table(len(ids))
    parts = [
        feed.step([(ids[: start + chunk], start, table)]) for start in range(0, len(ids), chunk)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("impl", IMPLS)
def test_decode_rows_beside_prefill_keep_their_bits(
    impl: str, make_checkpoint: Make, feeder: Any
) -> None:
    feed = feeder(_load(make_checkpoint("llama")[0], impl), impl=impl)
    first, second = _prompt(30), _prompt(40, seed=9)
    table = feed.table(31)
    feed.step([(first, 0, table)])
    alone = feed.step([([*first, 5], 30, table)])
    beside = feed.step([(second, 0, feed.table(40)), ([*first, 5], 30, table)])
    assert torch.equal(beside[-1:], alone)


def test_logits_come_only_for_the_rows_asked_for(make_checkpoint: Make, feeder: Any) -> None:
    feed = feeder(_load(make_checkpoint("qwen2")[0]))
    ids = _prompt(20)
    whole = feed.logits(ids)
    last = feed.step([(ids, 0, feed.table(20))], rows="last")
    assert torch.equal(last, whole[-1:])


def test_a_chunk_without_sampling_still_writes_its_kv(make_checkpoint: Make, feeder: Any) -> None:
    feed = feeder(_load(make_checkpoint("qwen3")[0]))
    ids = _prompt(30)
    whole = feed.logits(ids)
    table = feed.table(30)
    assert feed.step([(ids[:20], 0, table)], rows="none").shape == (0, 96)
    assert torch.equal(feed.step([(ids, 20, table)]), whole[20:])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_query_sees_as_many_tokens_as_the_window_says(
    impl: str, make_checkpoint: Make, feeder: Any
) -> None:
    """One layer with a window of 16: the query, the 15 tokens before it, and no further one."""
    directory, oracle = make_checkpoint("mistral-window")
    feed = feeder(_load(directory, impl), impl=impl)
    ids = _prompt(40)

    def last(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return feed.logits(ids)[-1], oracle(torch.tensor([ids])).logits[0, -1]

    for distance, is_seen in ((15, True), (16, False)):
        other = list(ids)
        other[-1 - distance] = (other[-1 - distance] + 1) % 96
        for before, after in zip(last(ids), last(other), strict=True):
            assert torch.equal(before, after) != is_seen


def test_embeddings_are_scaled_by_a_rounded_root(make_checkpoint: Make) -> None:
    directory, oracle = make_checkpoint("gemma3-1b-heads")
    ids = torch.tensor(_prompt(20))
    with torch.no_grad():
        expected = copy.deepcopy(oracle).to(torch.bfloat16).get_input_embeddings()(ids)
    assert torch.equal(_load(directory, dtype="bfloat16").decoder._embed(ids), expected)


@pytest.mark.parametrize("variant", ["mistral", "gemma3-linear-bias"])
def test_copied_blocks_continue_like_the_original(
    variant: str, make_checkpoint: Make, feeder: Any
) -> None:
    feed = feeder(_load(make_checkpoint(variant)[0]))
    ids = _prompt(21)
    table, other = feed.table(24), feed.table(24)
    feed.step([(ids, 0, table)])
    for group, (sources, targets) in enumerate(zip(table, other, strict=True)):
        feed.pool.copy_blocks(group, list(zip(sources, targets, strict=True)))
    original = feed.step([([*ids, 3], 21, table)])
    assert torch.equal(feed.step([([*ids, 3], 21, other)]), original)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_tied_head_takes_no_second_table(
    impl: str, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small as it is, and where MKL multiplies it as it lies."""
    monkeypatch.setattr(invariance, "mkl_keeps_bits", lambda: True)
    from thothy_batch.model.config.model_config import load_config
    from thothy_batch.model.weights import empty_weights

    config = load_config(make_checkpoint("llama-tied-bias")[0])
    weights = empty_weights(config, "float32")
    assert weights.head is None
    decoder = Decoder(config, weights, impl)
    assert decoder._head._multiply._weight.data_ptr() == weights.embedding.data_ptr()


def test_packing_takes_the_layers_out_of_the_weights(make_checkpoint: Make) -> None:
    from thothy_batch.model.config.model_config import load_config
    from thothy_batch.model.weights import empty_weights

    config = load_config(make_checkpoint("llama")[0])
    weights = empty_weights(config, "float32")
    Decoder(config, weights, "reference")
    assert weights.layers == []


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", IMPLS)
def test_stories_golden(impl: str, shared: Path, feeder: Any) -> None:
    directory = shared / "data" / "weights" / "stories260K"
    lines = (directory / "golden_greedy.jsonl").read_text().splitlines()
    feed = feeder(_load(directory, impl), impl=impl, num_pages=300)
    for line in [*lines[:5], lines[-1]]:
        golden = json.loads(line)
        assert feed.greedy(golden["prompt_token_ids"], 64) == golden["output_token_ids"]
