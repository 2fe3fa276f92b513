"""Memory profile: measures the GPU memory left for the KV pool by computing the largest steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.execution.batch import Batch
from thothy_batch.engine.execution.dummy_batches import DummyBatches
from thothy_batch.errors import EngineError
from thothy_batch.records import EngineSpec

if TYPE_CHECKING:
    from thothy_batch.engine.execution.launcher import Runner

# Reserved by torch's allocator per byte allocated.
_FRAGMENT_FACTOR = 1.25
# Library workspaces, buffers of decode steps, the state table.
_MARGIN_BYTES = 512 << 20
_NUM_SPARE_PAGES = 2  # per layer group, beyond those of one prompt


def free_after_warm_up(
    spec: EngineSpec,
    resolve: Callable[[EngineSpec, int], EngineConfig],
    runner_of: Callable[[EngineConfig], "Runner"],
) -> int:
    """Return the bytes available to the pool.

    They are the free memory beside the weights, less the peak of the largest steps and the memory
    of the decode graphs, both measured with a small pool.
    """
    return _measure(resolve(_with_small_pool(spec, resolve), 0), runner_of)


@contextmanager
def memory_named(use: str) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into an EngineError that names the use."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the GPU's memory does not suffice for {use}: {str(error).splitlines()[0]}",
            hint="free the GPU (nvidia-smi lists its processes), lower engine.kv_memory, "
            "engine.max_step_tokens or engine.max_seqs, or use a smaller model",
            cause="memory",
        ) from error


def _measure(config: EngineConfig, runner_of: Callable[[EngineConfig], "Runner"]) -> int:
    runner = runner_of(config)
    batches = DummyBatches(config, config.pool_tokens)
    of_step = _peak_of(runner, batches.full_step())
    of_decode = max(_peak_of(runner, batch) for batch in _largest_decodes(batches))
    del runner
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    peak = max(of_step, of_decode) + of_decode  # launched steps, and graphs
    return max(0, free - int(peak * _FRAGMENT_FACTOR) - _MARGIN_BYTES)


def _largest_decodes(batches: DummyBatches) -> list[Batch]:
    """Return the largest decode steps: without a shared prefix, and with one for all."""
    rows = batches.max_rows
    found = [batches.decode(rows, 1)]
    if rows > 1 and batches.max_context > batches.block_size:
        found.append(batches.grouped_decode(rows, 1))
    return found


def _peak_of(runner: "Runner", batch: Batch) -> int:
    """Return the peak bytes a step allocates beyond those allocated before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner.run(batch)
    return torch.cuda.max_memory_allocated() - before


def _with_small_pool(
    spec: EngineSpec, resolve: Callable[[EngineSpec, int], EngineConfig]
) -> EngineSpec:
    """Return the spec with a pool that fits one prompt of a step's length."""
    config = resolve(replace(spec, num_blocks=1 << 20), 0)
    layout = config.layout
    length = min(config.max_step_tokens, config.max_model_len)
    pages = sum(-(-layout.blocks_for(length) // each) for each in layout.blocks_per_page)
    pages += _NUM_SPARE_PAGES * len(layout.groups)
    return replace(spec, num_blocks=layout.blocks_of_pages(pages))
