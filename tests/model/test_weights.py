"""Reading checkpoints into merged tensors, and what is said of those that do not fit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.locate import ModelFiles
from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.loading import load_decoder
from thothy_batch.model.weight_source import load_weights, random_weights
from thothy_batch.model.weights import DecoderWeights, places
from thothy_batch.records import ModelSpec

Make = Callable[..., tuple[Path, Any]]


def _load(directory: Path, dtype: str = "float32") -> DecoderWeights:
    weights = load_weights(ModelFiles(directory, None, "x"), load_config(directory), dtype)
    weights.layers = list(weights.take_layers())
    return weights


@pytest.fixture
def change(make_checkpoint: Make, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint whose tensors went through a function."""

    def copy(variant: str, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        directory = Path(shutil.copytree(make_checkpoint(variant)[0], tmp_path / variant))
        tensors = load_file(directory / "model.safetensors")
        edit(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return copy


@pytest.mark.parametrize(
    "variant",
    [
        "llama-tied-bias",
        "qwen2",
        "qwen3",
        "llama-odd-heads",
        "ministral-mixed",
        "gemma2",
        "gemma3-linear-bias",
    ],
)
def test_every_tensor_of_the_checkpoint_lands_in_its_place(
    variant: str, make_checkpoint: Make
) -> None:
    directory, _ = make_checkpoint(variant)
    on_disk = load_file(directory / "model.safetensors")
    weights = _load(directory)
    ours = places(load_config(directory), weights)
    assert set(ours) == set(on_disk)
    for name, tensor in on_disk.items():
        assert torch.equal(ours[name], tensor), name
    merged = torch.cat([on_disk[f"model.layers.1.self_attn.{p}_proj.weight"] for p in "qkv"])
    assert torch.equal(weights.layers[1].qkv, merged)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_model_of_a_multimodal_checkpoint_is_read(
    prefix: str, change: Callable[..., Path]
) -> None:
    """As older and newer versions of transformers name it; the other parts are passed over."""
    variant = "gemma3-with-vision"
    found: dict[str, torch.Tensor] = {}

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            if name.startswith("language_model."):
                found[name.removeprefix("language_model.")] = tensor
                tensors[prefix + name.removeprefix("language_model.model.")] = tensor
            else:
                tensors[name if prefix.startswith("language") else f"model.{name}"] = tensor

    directory = change(variant, rename)
    config = load_config(directory)
    ours = places(config, _load(directory))
    assert set(ours) == set(found)
    assert all(torch.equal(ours[name], tensor) for name, tensor in found.items())


def test_an_extra_tensor_of_a_text_model_is_named(change: Callable[..., Path]) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.model.layers.0.extra"] = torch.zeros(1)

    with pytest.raises(ModelError, match=r"language_model\.model\.layers\.0\.extra"):
        _load(change("gemma3-with-vision", add))


def test_a_text_model_is_not_looked_for_in_other_families(change: Callable[..., Path]) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vision_tower.extra"] = torch.zeros(1)

    with pytest.raises(ModelError, match=r"vision_tower\.extra"):
        _load(change("gemma2", add))


def test_shards_read_like_one_file(make_checkpoint: Make, tmp_path: Path) -> None:
    directory, oracle = make_checkpoint("qwen3")
    oracle.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    config = load_config(directory)
    whole, parts = places(config, _load(directory)), places(config, _load(tmp_path))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_bfloat16_rounds_the_checkpoint(make_checkpoint: Make) -> None:
    directory, _ = make_checkpoint("llama")
    exact, rounded = _load(directory), _load(directory, "bfloat16")
    assert rounded.embedding.dtype == torch.bfloat16
    assert torch.equal(rounded.layers[0].qkv, exact.layers[0].qkv.to(torch.bfloat16))


def test_missing_tensors_are_named(change: Callable[..., Path]) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]

    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        _load(change("llama", drop))


def test_an_untied_head_must_be_there(change: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        _load(change("llama", lambda tensors: tensors.pop("lm_head.weight")))


def test_extra_tensors_are_named(change: Callable[..., Path]) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(48)
        for number in range(4):
            tensors[f"model.layers.{number}.extra"] = torch.zeros(1)

    with pytest.raises(ModelError, match=r"model\.layers\.0\.extra.* and 2 more"):
        _load(change("llama", add))


def test_rotary_buffers_and_a_tied_head_are_harmless(change: Callable[..., Path]) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
        tensors["model.rotary_emb.inv_freq"] = torch.zeros(6)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert _load(change("llama-tied-bias", add)).head is None


def test_a_head_that_differs_from_tied_embeddings_counts(change: Callable[..., Path]) -> None:
    """As transformers 5 does: the checkpoint knows better than its config.json."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    weights = _load(change("llama-tied-bias", add))
    assert weights.head is not None
    assert torch.equal(weights.head, weights.embedding + 1)


def test_a_wrong_shape_names_tensor_and_both_shapes(change: Callable[..., Path]) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = torch.zeros(47)

    with pytest.raises(ModelError, match=r"model\.norm\.weight has shape \[47\].*\[48\]"):
        _load(change("llama", shrink))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_tensors_are_refused(dtype: torch.dtype, change: Callable[..., Path]) -> None:
    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = tensors[name].to(dtype)

    with pytest.raises(ModelError, match="quantized weights are not supported"):
        _load(change("llama", quantize))


def test_random_weights_need_only_the_config(make_checkpoint: Make, tmp_path: Path) -> None:
    shutil.copy(make_checkpoint("qwen3")[0] / "config.json", tmp_path)
    spec = ModelSpec(id=str(tmp_path), random_weights=True)
    model = load_decoder(spec, device="cpu", impl="reference")
    assert model.tokenizer is None
    assert model.dtype == "float32"
    config = load_config(tmp_path)
    same = random_weights(config, "float32", 0)
    other = random_weights(config, "float32", 1)
    assert torch.equal(same.layers[1].down, random_weights(config, "float32", 0).layers[1].down)
    assert not torch.equal(same.layers[1].down, other.layers[1].down)
    assert torch.equal(same.final_norm, torch.ones(48))
    assert same.layers[0].q_norm is not None
    assert torch.equal(same.layers[0].q_norm, torch.ones(64))


@pytest.mark.parametrize("variant", ["gemma2", "gemma3-linear-bias"])
def test_random_norms_scale_by_one(variant: str, make_checkpoint: Make) -> None:
    config = load_config(make_checkpoint(variant)[0])
    norms = [
        part
        for name, part in places(config, random_weights(config, "bfloat16", 0)).items()
        if name.endswith("norm.weight")
    ]
    assert len(norms) == config.num_layers * (6 if config.qk_norm else 4) + 1
    assert all((norm + config.norm_offset == 1.0).all() for norm in norms)


def test_random_tensors_differ_from_each_other_and_in_their_rows(make_checkpoint: Make) -> None:
    weights = random_weights(load_config(make_checkpoint("llama")[0]), "float32", 0)
    assert not torch.equal(weights.layers[0].qkv, weights.layers[1].qkv)
    assert weights.embedding.unique(dim=0).shape[0] == 96
    # The deviation of 96 * 48 numbers is known to 1 / sqrt(2 * 96 * 48), a hundredth: ten of these.
    assert 0.018 < float(weights.embedding.std()) < 0.022


def test_quantization_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fp8"):
        load_decoder(
            ModelSpec(id=str(tmp_path), quantization="fp8"), device="cpu", impl="reference"
        )


def test_stop_ids_come_without_a_tokenizer(
    make_checkpoint: Make, edit_json: Callable[..., None], tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(make_checkpoint("llama")[0], tmp_path / "model"))
    edit_json(directory / "generation_config.json", eos_token_id=[4, 5])
    model = load_decoder(ModelSpec(id=str(directory)), device="cpu", impl="reference")
    assert model.stop_token_ids >= {4, 5}
