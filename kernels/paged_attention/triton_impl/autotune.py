"""Tuning trials of paged_attention: a decode step and a prompt chunk.

R rows decode in contexts of mixed lengths, once over blocks of their own and once with half of them
behind a shared prefix. A chunk of a prompt follows as many computed tokens. Neither has a window or
a soft cap: layers with them use the same settings.
"""

from collections.abc import Callable

import torch

from thothy_kernels.launch import is_interpreted
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.triton_impl.launch import paged_attention
from thothy_kernels.paged_attention.triton_impl.shapes import DECODE, PREFILL, AttentionShape
from thothy_kernels.tuning import Outputs, Trial, normal

# Enough rows to occupy every multiprocessor with few kv heads.
_NUM_ROWS = 64
# Shared memory of a Hopper multiprocessor, assumed in the interpreter.
_SHARED_BYTES = 228 << 10
Cache = tuple[torch.Tensor, torch.Tensor]


def trials(num_heads: int, cache: Cache, *, longest: int, num_rows: int = _NUM_ROWS) -> list[Trial]:
    """Trials of decode and prefill in contexts of up to `longest` tokens.

    Overwrites blocks of `cache`, keys and values [B, K, P, D] of one layer; rows share blocks if
    there are too few.
    """
    keys = cache[0]
    _, K, P, D = keys.shape
    shape = AttentionShape(num_heads, K, D, P, keys.dtype)
    shared_bytes = _shared_bytes(keys.device)
    lens = _mixed_lens(longest, num_rows)
    return [
        Trial(
            DECODE,
            shape.key,
            shape.decode_candidates(shared_bytes),
            lambda: _decoding(shape, cache, lens),
        ),
        Trial(
            PREFILL,
            shape.key,
            shape.prefill_candidates(shared_bytes),
            lambda: _prefilling(shape, cache, longest),
        ),
    ]


def _mixed_lens(longest: int, num_rows: int) -> list[int]:
    """Context lengths from a quarter of the longest up to it, ascending."""
    return [longest // 4 + 3 * longest // 4 * (row + 1) // num_rows for row in range(num_rows)]


def _decoding(shape: AttentionShape, cache: Cache, lens: list[int]) -> Callable[[], Outputs]:
    tables = _tables(lens, shape.P, cache)
    half = len(lens) // 2
    # The longer half shares a third of the longest context, in whole blocks.
    num_shared = max(1, lens[-1] // 3 // shape.P)
    grouped = tables.clone()
    grouped[half:, :num_shared] = grouped[half, :num_shared]
    shared = torch.tensor([[half, len(lens), 0, num_shared * shape.P]], dtype=torch.int32)
    ones = [1] * len(lens)
    metas = (
        _metadata(ones, lens, tables, cache),
        _metadata(ones, lens, grouped, cache, shared),
    )
    return _launches(shape, cache, len(lens), metas)


def _prefilling(shape: AttentionShape, cache: Cache, longest: int) -> Callable[[], Outputs]:
    num_queries = longest - longest // 2
    tables = _tables([longest], shape.P, cache)
    meta = _metadata([num_queries], [longest], tables, cache)
    return _launches(shape, cache, num_queries, (meta,))


def _launches(
    shape: AttentionShape, cache: Cache, num_queries: int, metas: tuple[AttentionMetadata, ...]
) -> Callable[[], Outputs]:
    """A launch of attention with each of metas, planned at the first launch."""
    device = cache[0].device
    q = normal((num_queries, shape.H, shape.D), shape.dtype, device, seed=1)
    scale = shape.D**-0.5

    def launch() -> Outputs:
        return tuple(paged_attention(q, *cache, meta, scale, 0.0) for meta in metas)

    return launch


def _tables(lens: list[int], block_size: int, cache: Cache) -> torch.Tensor:
    """Block tables int32 [S, M] over blocks with random keys and values."""
    num_blocks = [-(-length // block_size) for length in lens]
    in_pool = len(cache[0])
    tables = torch.full((len(lens), max(num_blocks)), -1, dtype=torch.int32)
    next_block = 0
    for table, num in zip(tables, num_blocks, strict=True):
        table[:num] = (next_block + torch.arange(num)) % in_pool
        next_block += num
    for seed, blocks in enumerate(cache):
        generator = torch.Generator(blocks.device).manual_seed(seed)
        blocks[:next_block].normal_(generator=generator)
    return tables


def _metadata(
    query_lens: list[int],
    lens: list[int],
    tables: torch.Tensor,
    cache: Cache,
    shared: torch.Tensor | None = None,
) -> AttentionMetadata:
    """Metadata on the device, with its host copy."""
    cu_seqlens = torch.tensor([0, *query_lens]).cumsum(0).int()
    tensors = (cu_seqlens, torch.tensor(lens, dtype=torch.int32), tables)
    host = AttentionMetadata(*tensors, max(query_lens), shared=shared)
    device = cache[0].device
    return AttentionMetadata(
        *(tensor.to(device) for tensor in tensors),
        max(query_lens),
        shared=None if shared is None else shared.to(device),
        host=host,
    )


def _shared_bytes(device: torch.device) -> int:
    """Shared memory of a multiprocessor."""
    if is_interpreted():
        return _SHARED_BYTES
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_multiprocessor)
