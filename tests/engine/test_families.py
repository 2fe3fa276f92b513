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
}
PROMPT_LENS = (1, 2, 7, 31, 32, 33, 70, 70)


# Directory, prompts, and by repetition penalty the tokens wanted.
Family = tuple[Path, list[list[int]], dict[float, list[tuple[int, ...]]]]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny random checkpoint, prompts, and the tokens that transformers gives for them."""
    import transformers

    class_name, settings = FAMILIES[request.param]
    tiny = {
        "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(3)
    config = getattr(transformers, class_name)(**(tiny | settings))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    random = Random(5)
    prompts = [[random.randrange(128) for _ in range(length)] for length in PROMPT_LENS]
    prompts[-1][:40] = prompts[-2][:40]  # a shared prefix
    wanted: dict[float, list[tuple[int, ...]]] = {1.0: [], 1.3: []}
    for penalty, rows in wanted.items():
        for prompt in prompts:
            ids = model.generate(
                torch.tensor([prompt]),
                max_new_tokens=12,
                do_sample=False,
                repetition_penalty=penalty,
            )
            rows.append(tuple(ids[0, len(prompt) :].tolist()))
    return directory, prompts, wanted


TINY_WAYS: dict[str, dict[str, Any]] = {
    "together": {"num_blocks": 40},
    "blocks-of-1-chunks-of-7": {"num_blocks": 600, "block_size": 1, "max_step_tokens": 7},
    "preempting-no-sharing": {
        "num_blocks": 6, "block_size": 16, "admission": "optimistic", "prefix_sharing": False,
    },
}  # fmt: skip
# Windowed layers allocate all they need at admission: pools in which the full ones run short. Where
# all layers have a window no sequence is ever preempted.
SHORT_POOLS = {"gemma2": 18, "gemma3": 20, "ministral": 15, "mistral-window": 22}


def settings_of(way: str, name: str) -> dict[str, Any]:
    # Accepted drafts shorten the run, as the clock decides: then maybe no sequence is preempted.
    settings = {"speculation": "off" if way.startswith("preempting") else "auto", **TINY_WAYS[way]}
    if way.startswith("preempting") and name in SHORT_POOLS:
        settings |= {"num_blocks": SHORT_POOLS[name], "block_size": 4, "max_step_tokens": 8}
    return settings


@pytest.mark.parametrize("impl", IMPLS)
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


@pytest.mark.few(3)
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
