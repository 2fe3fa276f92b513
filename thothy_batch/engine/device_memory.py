"""How much of a GPU's memory is left for the KV pool, found out by computing the largest steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.synthetic import SyntheticBatches
from thothy_batch.errors import EngineError
from thothy_batch.records import EngineSpec

if TYPE_CHECKING:
    from thothy_batch.engine.launching import Runner

# What graphs take beyond the memory of the largest decode step: libraries' own, and fragments.
_GRAPH_FACTOR = 1.25
_MARGIN_BYTES = 512 << 20
_NUM_PAGES_LEFT = 2  # of each layer group, beside what one prompt takes


def free_after_warm_up(
    spec: EngineSpec,
    resolve: Callable[[EngineSpec, int], EngineConfig],
    runner_of: Callable[[EngineConfig], "Runner"],
) -> int:
    """Bytes that a pool may take: what is free after the largest steps were computed over a small
    one, less what the graphs of decode steps will hold.

    Memory of activations stays with torch's allocator, so it is not counted as free.
    """
    try:
        return _measure(resolve(_with_small_pool(spec, resolve), 0), runner_of)
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the GPU's memory does not suffice for the weights and one step: {error}",
            hint="lower engine.max_step_tokens or engine.max_seqs, or free the GPU",
        ) from error


def _measure(config: EngineConfig, runner_of: Callable[[EngineConfig], "Runner"]) -> int:
    runner = runner_of(config)
    batches = SyntheticBatches(config, config.pool_tokens)
    runner.run(batches.full_step())
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner.run(batches.decode(batches.max_rows, 1))
    of_decode = torch.cuda.max_memory_allocated() - before
    del runner
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info()
    return max(0, free - int(of_decode * _GRAPH_FACTOR) - _MARGIN_BYTES)


def _with_small_pool(
    spec: EngineSpec, resolve: Callable[[EngineSpec, int], EngineConfig]
) -> EngineSpec:
    """A pool that one prompt of a step's length fits."""
    config = resolve(replace(spec, num_blocks=1 << 20), 0)
    layout = config.layout
    length = min(config.max_step_tokens, config.max_model_len)
    pages = sum(-(-layout.blocks_for(length) // each) for each in layout.blocks_per_page)
    pages += _NUM_PAGES_LEFT * len(layout.groups)
    return replace(spec, num_blocks=layout.blocks_of_pages(pages))
