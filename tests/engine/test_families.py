"""Every family gives transformers' tokens, however the work is planned and scheduled."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from thothy_batch.plan import POLICIES, plan_requests
from thothy_batch.records import EngineSpec, ModelSpec, Request, RequestResult, Sampling

IMPLS = ("cpu", "reference")


def short(num_tokens: int) -> Sampling:
    return Sampling(max_tokens=num_tokens, ignore_eos=True, repetition_stop=False)


def outputs(results: list[RequestResult]) -> list[tuple[int, ...]]:
    return [completion.token_ids for result in results for completion in result.completions]


# Up to it longrope has other factors than beyond it; no prompt below grows from one side to the
# other, where transformers changes them.
LONGROPE_LEN = 44

QWEN_VL: dict[str, Any] = {
    "text_config": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2, 3, 3],
        },
    },
    # Beyond the vocabulary: no prompt has one.
    "image_token_id": 128,
    "video_token_id": 129,
    "vision_start_token_id": 130,
    "vision_end_token_id": 131,
}
TINY_EYE = {"depth": 1, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}

# Families, heads (query, kv) and head dims as they differ among checkpoints.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-gqa-dim16": ("LlamaConfig", {"num_key_value_heads": 2, "head_dim": 16}),
    "llama-odd-heads": (
        "LlamaConfig",
        {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 24},
    ),
    "mistral-one-kv-head": (
        "MistralConfig",
        {"sliding_window": None, "num_key_value_heads": 1, "head_dim": 64},
    ),
    "qwen2-bias-odd-heads": (
        "Qwen2Config",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 96},
    ),
    "qwen3-dim128": ("Qwen3Config", {"head_dim": 128, "num_key_value_heads": 2}),
    "qwen3-tied-dim256": (
        "Qwen3Config",
        {"head_dim": 256, "num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 24, "num_hidden_layers": 4}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 32, "sliding_window": 20, "num_hidden_layers": 7, "sliding_window_pattern": 6},
    ),
    "ministral": (
        "MinistralConfig",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "mistral-window": ("MistralConfig", {"sliding_window": 30, "head_dim": 16}),
    "dynamic-ntk": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "gemma": ("GemmaConfig", {"head_dim": 32, "num_key_value_heads": 1}),
    "granite": (
        "GraniteConfig",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.0625,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
    ),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4}),
    "phi4-mini": (
        "Phi3Config",
        {
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": LONGROPE_LEN,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0],
                "long_factor": [1.0, 1.5, 2.0, 4.0, 9.0, 30.0],
            },
        },
    ),
    "olmo2": ("Olmo2Config", {}),
    "glm": ("GlmConfig", {"head_dim": 32}),
    "glm4": ("Glm4Config", {"head_dim": 16}),
    "seed-oss": ("SeedOssConfig", {"head_dim": 32, "num_attention_heads": 6}),
    "exaone4": ("Exaone4Config", {"num_hidden_layers": 5, "sliding_window": 21}),
    "mistral3": (
        "Mistral3Config",
        {"text_config": {"model_type": "mistral", "head_dim": 16, "sliding_window": None}},
    ),
    "llava": ("LlavaConfig", {"text_config": {"model_type": "llama"}}),
    "llava-next": (
        "LlavaNextConfig",
        {"text_config": {"model_type": "mistral", "head_dim": 16, "sliding_window": None}},
    ),
    "qwen2-vl": ("Qwen2VLConfig", QWEN_VL | {"vision_config": TINY_EYE | {"embed_dim": 16}}),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        QWEN_VL
        | {
            "vision_config": TINY_EYE
            | {"hidden_size": 16, "out_hidden_size": 64, "fullatt_block_indexes": [0]}
        },
    ),
    "qwen3-vl": (
        "Qwen3VLConfig",
        QWEN_VL
        | {
            "vision_config": TINY_EYE
            | {"hidden_size": 16, "out_hidden_size": 64, "deepstack_visual_indexes": [0]}
        },
    ),
}
# Of the same text models as others here, in other wrappings.
REWRAPPED = ("llava-next", "qwen2-vl", "qwen2.5-vl", "qwen3-vl")
TINY = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
TINY_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
PROMPT_LENS = (1, 2, 7, 31, 32, 33, 70, 70)


# Directory, prompts, and by repetition penalty the tokens wanted.
Family = tuple[Path, list[list[int]], dict[float, list[tuple[int, ...]]]]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.rest) if name in REWRAPPED else name
        for name in FAMILIES
    ],
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny random checkpoint, prompts, and the tokens that transformers gives for them."""
    import transformers

    class_name, settings = FAMILIES[request.param]
    torch.manual_seed(3)
    make_config = getattr(transformers, class_name)
    if "text_config" in settings:
        text = TINY | settings["text_config"]
        wrapped = {"vision_config": TINY_VISION, "tie_word_embeddings": False}
        config = make_config(**(wrapped | settings | {"text_config": text}))
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    else:
        model = transformers.AutoModelForCausalLM.from_config(make_config(**(TINY | settings)))
        model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    random = Random(5)
    prompts = [[random.randrange(128) for _ in range(length)] for length in PROMPT_LENS]
    prompts[-1][:40] = prompts[-2][:40]  # a shared prefix
    return directory, prompts, _Wanted(model, prompts)


class _Wanted(dict[float, list[tuple[int, ...]]]):
    """By repetition penalty the tokens of transformers, computed when they are asked for."""

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        super().__init__()
        self._model = model
        self._prompts = prompts

    def __missing__(self, penalty: float) -> list[tuple[int, ...]]:
        self[penalty] = rows = []
        for prompt in self._prompts:
            ids = self._model.generate(
                torch.tensor([prompt]),
                max_new_tokens=12,
                do_sample=False,
                repetition_penalty=penalty,
            )
            rows.append(tuple(ids[0, len(prompt) :].tolist()))
        return rows


TINY_WAYS: dict[str, dict[str, Any]] = {
    "together": {"num_blocks": 40},
    "blocks-of-1-chunks-of-7": {"num_blocks": 600, "block_size": 1, "max_step_tokens": 7},
    "preempting-no-sharing": {
        "num_blocks": 6, "block_size": 16, "admission": "optimistic", "prefix_sharing": False,
    },
}  # fmt: skip
# Windowed layers allocate all they need at admission: pools in which the full ones run short. Where
# all layers have a window no sequence is ever preempted.
SHORT_POOLS = {"gemma2": 18, "gemma3": 20, "ministral": 15, "mistral-window": 22, "exaone4": 20}


def settings_of(way: str, name: str) -> dict[str, Any]:
    # Accepted drafts shorten the run, as the clock decides: then maybe no sequence is preempted.
    settings = {"speculation": "off" if way.startswith("preempting") else "auto", **TINY_WAYS[way]}
    if way.startswith("preempting") and name in SHORT_POOLS:
        settings |= {"num_blocks": SHORT_POOLS[name], "block_size": 4, "max_step_tokens": 8}
    return settings


@pytest.mark.parametrize("impl", [pytest.param("reference", marks=pytest.mark.rest), "cpu"])
def test_every_family_gives_transformers_tokens(family: Family, impl: str, run_all: Any) -> None:
    directory, prompts, wanted = family
    requests = [Request(i, "", prompt, short(12)) for i, prompt in enumerate(prompts)]
    name = directory.name[:-1]  # pytest numbers its folders
    for way in TINY_WAYS:
        spec = EngineSpec(model=ModelSpec(id=str(directory)), impl=impl, **settings_of(way, name))
        results, totals = run_all(spec, requests)
        assert outputs(results) == wanted[1.0], way
        can_preempt = way.startswith("preempting") and name != "mistral-window"
        assert (totals.num_preempted > 0) == can_preempt


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", IMPLS)
def test_the_repetition_penalty_is_that_of_transformers(
    family: Family, impl: str, run_all: Any
) -> None:
    directory, prompts, wanted = family
    sampling = Sampling(
        max_tokens=12, ignore_eos=True, repetition_stop=False, repetition_penalty=1.3
    )
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl=impl, num_blocks=40)
    results, _ = run_all(spec, [Request(i, "", ids, sampling) for i, ids in enumerate(prompts)])
    assert outputs(results) == wanted[1.3]
    assert wanted[1.3] != wanted[1.0]


@pytest.mark.parametrize("family", ["phi4-mini"], indirect=True)
def test_one_text_under_two_ropes_shares_no_keys(family: Family, run_all: Any) -> None:
    """A request that can grow beyond the short factors' length is computed by the long ones."""
    directory, prompts, wanted = family
    model = ModelSpec(id=str(directory))
    spec = EngineSpec(model=model, impl="cpu", num_blocks=300, block_size=4, max_seqs=1)
    beginning = prompts[-1][:32]
    requests = [
        Request(0, "", prompts[-1], short(12)),
        Request(1, "", beginning, short(12)),
        Request(2, "", beginning, short(LONGROPE_LEN - 32 + 1)),
        Request(3, "", beginning, short(LONGROPE_LEN - 32 + 2)),
    ]
    together, totals = run_all(spec, requests)
    for request, result in zip(requests, together, strict=True):
        alone, _ = run_all(spec, [request])
        assert outputs(alone) == outputs([result])
    assert outputs(together[:1]) == wanted[1.0][-1:]
    first, as_long, grown = outputs(together[1:])
    assert as_long[:12] == first != grown[:12]
    # The last token of a prompt is always computed.
    assert totals.prefill_tokens == 70 + 32 + 4 + 4


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", IMPLS)
def test_orders_groups_and_copies_change_no_token(family: Family, impl: str, run_all: Any) -> None:
    """Four samples of each prompt beside the prompts that share a beginning with it."""
    directory, prompts, wanted = family
    again = [prompts[-1][:45] + tail for tail in ([1, 2, 3], [4], [1, 2, 3])]
    alone = EngineSpec(model=ModelSpec(id=str(directory)), impl=impl, num_blocks=300, block_size=4)
    requests = [
        Request(i, "", prompt, short(12), seed=i, num_samples=1 + 3 * (i % 2), priority=i % 3)
        for i, prompt in enumerate([*prompts, *again])
    ]
    unshared, _ = run_all(replace(alone, prefix_sharing=False, max_seqs=4), requests)
    for index, tokens in enumerate(wanted[1.0]):
        assert set(outputs(unshared[index : index + 1])) == {tokens}
    for policy in POLICIES:
        plan = plan_requests(requests, policy, block_size=4, pool_tokens=1200)
        results, totals = run_all(alone, plan.apply(requests))
        assert outputs(results) == outputs(unshared), policy
        if plan.computed_prompt_tokens is not None:
            assert totals.prefill_tokens == plan.computed_prompt_tokens
            assert totals.prefill_tokens < plan.prompt_tokens
