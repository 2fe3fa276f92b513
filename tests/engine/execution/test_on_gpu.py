"""The whole engine on a CUDA device: the CPU's greedy tokens in float32, its logits in bfloat16.

THOTHY_GPU_DRY_RUN=1 tries it without one: a few tokens in the interpreter of Triton.
"""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device_place import CAN_RUN, DEVICE, IS_DRY_RUN, no_waiting, on_device
from safetensors.torch import load_file, save_file

from thothy_batch.engine.core.config import resolve_impl
from thothy_batch.engine.execution.decode_graphs import row_buckets
from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.model_loader import load_runner
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.model.config.model_config import kv_bytes_per_token, layer_groups
from thothy_batch.model.inputs import ForwardInputs, GroupInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling
from thothy_kernels.paged_attention import AttentionMetadata

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from test_exactness import WAYS, golden_requests  # noqa: E402
from test_families import (  # noqa: E402
    TINY_WAYS,
    Family,
    family,  # noqa: F401
    outputs,
    settings_of,
    short,
)
from test_gpu_runner import (  # noqa: E402
    TOGETHER,
    checkpoint,  # noqa: F401
    completions,
    mixed_requests,
    tokens_of,
)

IMPL = "triton" if IS_DRY_RUN else "auto"
STORIES = Path(__file__).resolve().parents[3] / "gpu_pack" / "stories260K"
PREEMPTING = "blocks-of-16-preempting"
NUM_NEW, NUM_PROMPTS = (2, 5) if IS_DRY_RUN else (12, None)  # of each family

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CAN_RUN, reason="no CUDA device")]
on_a_device_alone = pytest.mark.skipif(IS_DRY_RUN, reason="a dry run has no CUDA device")
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="no gpu_pack: make gpu-pack")


def spec_of(directory: Path, **settings: Any) -> EngineSpec:
    model = ModelSpec(id=str(directory), dtype="float32")
    return EngineSpec(**({"model": model, "device": DEVICE, "impl": IMPL} | settings))


@needs_stories
@pytest.mark.parametrize("way", ["together"] if IS_DRY_RUN else WAYS)
def test_golden_tokens_come_out_however_they_are_scheduled(way: str, run_all: Any) -> None:
    lines = (STORIES / "golden_greedy.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][: 4 if IS_DRY_RUN else None]
    num_tokens = 3 if IS_DRY_RUN else 64
    requests = golden_requests(rows, short(num_tokens))
    results, totals = run_all(spec_of(STORIES, **WAYS[way]), requests)
    assert outputs(results) == [tuple(row["output_token_ids"][:num_tokens]) for row in rows]
    assert (totals.num_preempted > 0) == (way == PREEMPTING)


@pytest.mark.parametrize("way", ["together"] if IS_DRY_RUN else TINY_WAYS)
def test_every_family_gives_transformers_tokens(
    family: Family,  # noqa: F811
    way: str,
    run_all: Any,
) -> None:
    directory, prompts, wanted = family
    requests = [Request(i, "", ids, short(NUM_NEW)) for i, ids in enumerate(prompts[:NUM_PROMPTS])]
    results, _ = run_all(spec_of(directory, **settings_of(way, directory.name[:-1])), requests)
    assert outputs(results) == [tokens[:NUM_NEW] for tokens in wanted[1.0][:NUM_PROMPTS]]


def test_the_repetition_penalty_is_that_of_transformers(
    family: Family,  # noqa: F811
    run_all: Any,
) -> None:
    directory, prompts, wanted = family
    sampling = Sampling(
        max_tokens=NUM_NEW, ignore_eos=True, repetition_stop=False, repetition_penalty=1.3
    )
    requests = [Request(i, "", ids, sampling) for i, ids in enumerate(prompts[:NUM_PROMPTS])]
    results, _ = run_all(spec_of(directory, num_blocks=40), requests)
    assert outputs(results) == [tokens[:NUM_NEW] for tokens in wanted[1.3][:NUM_PROMPTS]]


@pytest.mark.parametrize("impl", ["flex", "reference"])
@pytest.mark.parametrize("family", ["gemma2"], indirect=True)
def test_other_implementations_give_the_tokens_of_the_cpu(
    family: Family,  # noqa: F811
    impl: str,
    run_all: Any,
) -> None:
    """Those of transformers, which the CPU's are too (test_families.py). Layers of two kinds."""
    directory, prompts, wanted = family
    requests = [Request(i, "", ids, short(NUM_NEW)) for i, ids in enumerate(prompts[:NUM_PROMPTS])]
    results, _ = run_all(spec_of(directory, impl=impl, num_blocks=80, block_size=16), requests)
    assert outputs(results) == [tokens[:NUM_NEW] for tokens in wanted[1.0][:NUM_PROMPTS]]


def greedy_requests() -> list[Request]:
    """Samples from nearly equal logits may differ by device; the highest logit does not."""
    return [replace(r, sampling=replace(r.sampling, temperature=0.0)) for r in mixed_requests()]


@on_a_device_alone
def test_an_engine_sizes_its_pool_and_replays_its_graphs(
    checkpoint: Path,  # noqa: F811
    run_all: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replay, num_replayed = torch.cuda.CUDAGraph.replay, 0

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        nonlocal num_replayed
        num_replayed += 1
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    share = 0.001  # of memory that other tests use meanwhile
    loaded = load_runner(spec_of(checkpoint, kv_memory=share, max_seqs=64))
    model, config = loaded.model, loaded.config
    num_bytes = config.pool_tokens * kv_bytes_per_token(model.config, model.dtype)
    assert 0 < num_bytes <= share * torch.cuda.mem_get_info()[1]
    assert len(loaded.runner._graphs._graphs) == 2 * len(row_buckets(64))
    assert num_replayed == 0, "capturing replays nothing"
    engine = LLMEngine(
        config,
        loaded.launcher,
        StopChecker(model.stop_token_ids, model.tokenizer),
        vocab_size=model.config.vocab_size,
        has_tokenizer=model.tokenizer is not None,
    )
    found = tokens_of(engine, greedy_requests())
    assert num_replayed > 0
    on_cpu = spec_of(checkpoint, device="cpu", impl="cpu", **TOGETHER)
    assert found == completions(run_all(on_cpu, greedy_requests())[0])


@pytest.mark.skipif(
    IS_DRY_RUN, reason="a CPU is never waited for; test_gpu_runner.py pretends a device"
)
def test_the_host_waits_for_nothing_but_tokens(checkpoint: Path) -> None:  # noqa: F811
    """The first run compiles, and libraries set themselves up. To read tokens waits for an event,
    which is not among what raises."""
    engine = InProcessEngine.start(spec_of(checkpoint, impl="triton", **TOGETHER)).engine
    first = tokens_of(engine, mixed_requests())
    again = [replace(request, request_id=10 + request.request_id) for request in mixed_requests()]
    with no_waiting():
        assert tokens_of(engine, again) == first


def rounded_to_bfloat16(directory: Path, into: Path) -> Path:
    """The checkpoint with weights that both dtypes hold: what differs then is the computing."""
    shutil.copytree(directory, into, copy_function=shutil.copyfile)
    weights = load_file(directory / "model.safetensors")
    weights = {name: weight.bfloat16().float() for name, weight in weights.items()}
    save_file(weights, into / "model.safetensors", {"format": "pt"})
    return into


BLOCK_SIZE = 16
NUM_TOKENS = 36 if IS_DRY_RUN else 90  # more than any of the windows


def logits_of(directory: Path, dtype: str, device: str, impl: str) -> torch.Tensor:
    """Float32 logits [T, V] of a prompt but for its last token, then of that token, decoded."""
    spec = ModelSpec(id=str(directory), dtype=dtype)
    model = load_decoder(spec, device=device, impl=impl)
    num_pages = 8 * len(layer_groups(model.config))
    kv = KVPool.allocate(model.config, num_pages, BLOCK_SIZE, dtype, device, impl=impl)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(model.config.vocab_size, (NUM_TOKENS,), generator=generator)
    parts = (slice(0, NUM_TOKENS - 1), slice(NUM_TOKENS - 1, NUM_TOKENS))
    with torch.inference_mode():
        steps = [model.decoder.forward(inputs_of(model, ids, part, device), kv) for part in parts]
    return torch.cat(steps).cpu()


def inputs_of(model: LoadedModel, ids: torch.Tensor, part: slice, device: str) -> ForwardInputs:
    """One sequence. Each layer group has eight large pages to itself, in reverse order."""
    positions = torch.arange(part.start, part.stop)
    cu_seqlens = torch.tensor([0, len(positions)], dtype=torch.int32)
    context_lens = torch.tensor([part.stop], dtype=torch.int32)
    groups, by_group = layer_groups(model.config), []
    page_units = math.lcm(*(len(group.layers) for group in groups))
    for number, group in enumerate(groups):
        per_page = page_units // len(group.layers)
        table = (number + 1) * 8 * per_page - 1 - torch.arange(-(-len(ids) // BLOCK_SIZE))
        slots = table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        host = AttentionMetadata(
            cu_seqlens, context_lens, table.int()[None], len(positions), group.window
        )
        by_group.append(GroupInputs(slots.to(device), on_device(host, device)))
    rows = torch.arange(len(positions), device=device)
    return ForwardInputs(ids[part].to(device), positions.to(device), tuple(by_group), rows)


def assert_no_further_from_float32(directory: Path, into: Path) -> None:
    """The device rounds where the CPU's bfloat16 does, and attention's weights once more: of the
    ten or so roundings in a layer one more, so half as much again is a wide margin."""
    rounded = rounded_to_bfloat16(directory, into / "rounded")
    exact = logits_of(rounded, "float32", "cpu", "reference")
    of_cpu = logits_of(rounded, "bfloat16", "cpu", "reference")
    # The interpreter cannot multiply bfloat16.
    dtype, impl = (
        ("float32", "triton") if IS_DRY_RUN else ("bfloat16", resolve_impl("auto", "cuda"))
    )
    found = logits_of(rounded, dtype, DEVICE, impl)
    for part in (slice(0, NUM_TOKENS - 1), slice(NUM_TOKENS - 1, NUM_TOKENS)):
        error, allowed = (logits[part] - exact[part] for logits in (found, of_cpu))
        assert error.norm() <= 1.5 * allowed.norm()


@needs_stories
def test_bfloat16_logits_of_stories_are_no_further_from_float32(tmp_path: Path) -> None:
    assert_no_further_from_float32(STORIES, tmp_path)


def test_bfloat16_logits_of_every_family_are_no_further_from_float32(
    family: Family,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert_no_further_from_float32(family[0], tmp_path)
