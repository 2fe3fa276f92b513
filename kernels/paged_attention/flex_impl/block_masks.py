"""Plan of a step for flex_attention: tiles of queries, blocks to copy, and BlockMasks.

See launch.py. N tiles, C columns of the block tables to copy for each. The host computes the tiles;
everything else is computed on the device from values there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.block_checks import check_blocks_exist
from thothy_kernels.transfer import send

# Rows of a tile that is read in place: the rows that a program of flex's kernel computes at once.
_TILE_ROWS = 64
# Bytes of keys, and of values, that a program loads at once. In float32 with a head dim of 256, two
# larger tiles in the pipeline would not fit in shared memory beside the queries.
_LOAD_BYTES = 16384
_COPY_BLOCK = 128  # keys in a block of the BlockMask over copies


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and strides that a plan depends on, beside the metadata. G = H // K."""

    K: int
    G: int
    D: int
    P: int
    B: int
    block_pages: int  # stride of a block in pages [P, D]; 0: blocks are copied, not read in place
    item_bytes: int  # of the dtype

    def to_rows(self, q: torch.Tensor) -> torch.Tensor:
        """[N, queries, H, D] -> [N * K, 1, queries * G, D]"""
        N, queries, _, D = q.shape
        by_head = q.reshape(N, queries, self.K, self.G, D).transpose(1, 2)
        return by_head.reshape(N * self.K, 1, queries * self.G, D)

    def from_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """[N * K, 1, queries * G, D] -> [N * queries, H, D]"""
        by_head = rows.reshape(-1, self.K, rows.shape[2] // self.G, self.G, self.D)
        return by_head.transpose(1, 2).reshape(-1, self.K * self.G, self.D)

    def tile_queries(self, max_query_len: int) -> int:
        """Queries of a tile. Without reads in place a tile is a sequence, so blocks are copied
        once."""
        return (
            min(max_query_len, max(1, _TILE_ROWS // self.G)) if self.block_pages else max_query_len
        )

    def kernel_options(self, num_rows: int) -> dict[str, Any]:
        """Options of flex's Triton kernel for tiles of `num_rows` rows."""
        block_n = gcd(64, self.P) if self.block_pages else 64
        while block_n > 16 and block_n * self.D * self.item_bytes > _LOAD_BYTES:
            block_n //= 2
        return {
            "FORCE_USE_FLEX_ATTENTION": True,  # the decode kernel recompiles per batch size
            "BLOCK_M": block_m(num_rows),
            "BLOCK_N": block_n,
            "num_stages": 2,
        }


def block_m(num_rows: int) -> int:
    """Rows that a program of flex's kernel computes at once."""
    return 16 if num_rows <= 16 else _TILE_ROWS


def layout_of(q: torch.Tensor, k_cache: torch.Tensor) -> Layout:
    """The layout of q [T, H, D] and a cache [B, K, P, D]. ValueError for a head dim below 16 on a
    device."""
    B, K, P, D = k_cache.shape
    if q.is_cuda and D < 16:
        raise ValueError(f"paged_attention: flex on a device needs a head dim of 16, not {D}")
    block_pages = _block_pages(k_cache) if _reads_in_place(k_cache) else 0
    return Layout(K, q.shape[1] // K, D, P, B, block_pages, q.element_size())


def _reads_in_place(k_cache: torch.Tensor) -> bool:
    return k_cache.is_cuda and k_cache.shape[2] % 16 == 0


def _block_pages(k_cache: torch.Tensor) -> int:
    """Stride of a block in pages [P, D]; 0 if the pool's rows cannot be numbered so."""
    B, _, P, D = k_cache.shape
    block_pages, rest = divmod(k_cache.stride(0), P * D)
    # Flex's kernel computes offsets in 32 bits.
    return block_pages if not rest and B * k_cache.stride(0) < 2**31 else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """N tiles of `queries` queries each; a tile's last query is repeated to fill it."""

    rows: torch.Tensor  # int64 [N, queries]: row of q
    places: torch.Tensor  # int64 [T]: index of each row of q within N * queries
    block_ids: torch.Tensor  # int64 [N, C]: blocks to copy
    is_visible: torch.Tensor  # bool [N, C, P]: slots of them that the tile attends to
    copied: BlockMask
    in_place: BlockMask | None


def plan_of(meta: AttentionMetadata, layout: Layout) -> Plan:
    """The plan of a step. ValueError for a bad block table, or without host values."""
    host = meta.host if meta.host is not None else meta
    if host.context_lens.device.type != "cpu":
        raise ValueError("paged_attention: metadata on a device needs its host's values in `host`")
    check_blocks_exist(host, layout.P, layout.B)
    tiles = _tiles(host.cu_seqlens.numpy(), layout.tile_queries(meta.max_query_len))
    device = meta.context_lens.device
    seqs, rows, behind, places = (send(torch.from_numpy(part), device) for part in tiles)
    visible = _Visible(meta.context_lens[seqs][:, None] - behind, meta.window, layout)
    tables = meta.block_tables[seqs]
    columns, is_visible = visible.copied_columns(tables.shape[1])
    positions = columns[..., None] * layout.P + torch.arange(layout.P, device=device)
    positions = torch.where(is_visible, positions, -1).flatten(1)
    return Plan(
        rows,
        places,
        _ids(tables, columns, layout.B),
        is_visible,
        visible.mask_of_copies(positions),
        visible.mask_in_place(tables) if layout.block_pages else None,
    )


def _tiles(cu: np.ndarray, queries: int) -> tuple[np.ndarray, ...]:
    """(sequences [N], rows of q and their distance from the context's end [N, queries], places
    [T])."""
    num_queries = (cu[1:] - cu[:-1]).astype(np.int64)
    num_tiles = -(-num_queries // queries)
    seqs = np.repeat(np.arange(len(num_tiles)), num_tiles)
    first = np.arange(len(seqs)) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    query = first[:, None] * queries + np.arange(queries)
    limit = num_queries[seqs][:, None]
    places = np.flatnonzero(query < limit)
    query = np.minimum(query, limit - 1)
    return seqs, cu[seqs][:, None] + query, (limit - query).astype(np.int32), places


def _ids(tables: torch.Tensor, columns: torch.Tensor, B: int) -> torch.Tensor:
    """Blocks at `columns` [N, C] of `tables` [N, M]; any valid block outside the table."""
    inside = columns.clamp(0, tables.shape[1] - 1).long()
    return tables.gather(1, inside).clamp(0, B - 1).long()


@dataclass(frozen=True, slots=True)
class _Visible:
    """Visible positions of tiles, from the positions int32 [N, queries] of their queries."""

    positions: torch.Tensor
    window: int | None
    layout: Layout

    @property
    def begin(self) -> torch.Tensor:
        """int32 [N, 1]: the first position that the tile's first query attends to."""
        first = self.positions[:, :1]
        return (
            torch.zeros_like(first) if self.window is None else (first + 1 - self.window).clamp(0)
        )

    @property
    def end(self) -> torch.Tensor:
        """int32 [N, 1]: one past the last position that the tile's last query attends to."""
        return self.positions[:, -1:] + 1

    def is_whole(self, columns: torch.Tensor) -> torch.Tensor:
        """True for blocks read in place: every slot is visible to some query of the tile."""
        P = self.layout.P
        return (columns * P >= self.begin) & ((columns + 1) * P <= self.end)

    def copied_columns(self, M: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(columns [N, C] of the block tables to copy, visible slots bool [N, C, P] of them)."""
        P, begin, end = self.layout.P, self.begin, self.end
        first, last = begin // P, (end - 1) // P
        if self.layout.block_pages:
            columns = torch.cat((first, last), 1)
            is_copied = ~self.is_whole(columns)
            is_copied[:, 1:] &= last != first
        else:
            if self.window is not None:
                M = min(M, (self.window + self.positions.shape[1]) // P + 2)
            columns = first + torch.arange(M, device=first.device, dtype=first.dtype)
            is_copied = columns <= last
        slots = columns[..., None] * P + torch.arange(P, device=first.device)
        inside = (slots >= begin[..., None]) & (slots < end[..., None])
        return columns, is_copied[..., None] & inside

    def mask_of_copies(self, key_positions: torch.Tensor) -> BlockMask:
        """BlockMask over copied keys. key_positions int32 [N, keys]; -1: not visible."""
        device, num_keys = key_positions.device, key_positions.shape[1]
        num_blocks = -(-num_keys // _COPY_BLOCK)
        blocks = torch.arange(num_blocks, dtype=torch.int32, device=device)
        num = torch.full((1, 1, 1), num_blocks, dtype=torch.int32, device=device)

        def position_of(tile: torch.Tensor, _: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return key_positions[tile, key]

        return self._mask(num, blocks[None, None, None], _COPY_BLOCK, num_keys, position_of)

    def mask_in_place(self, tables: torch.Tensor) -> BlockMask:
        """BlockMask over the pool. tables int32 [N, M]: block tables of the tiles' sequences."""
        K, P, B = self.layout.K, self.layout.P, self.layout.B
        block_pages = self.layout.block_pages
        (N, M), device = tables.shape, tables.device
        column = torch.arange(M, dtype=torch.int32, device=device)
        is_whole = self.is_whole(column)
        columns = -(-self.begin // P) + column
        heads = torch.arange(K, device=device)[None, :, None]
        pages = (_ids(tables, columns, B)[:, None] * block_pages + heads).int().view(N * K, 1, 1, M)
        num = is_whole.sum(1, dtype=torch.int32).repeat_interleave(K).view(N * K, 1, 1)
        # Column B, one past the pool, absorbs blocks that are not read.
        columns_of = torch.full((N, B + 1), -1, dtype=torch.int32, device=device)
        targets = torch.where(is_whole, tables.clamp(0, B - 1), B).long()
        columns_of.scatter_(1, targets, column.expand(N, M).contiguous())
        page_size, stride = (torch.full((), x, device=device) for x in (P, block_pages))

        def position_of(
            tile: torch.Tensor, kv_head: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            page = key // page_size
            column = columns_of[tile, page // stride]
            is_listed = (column >= 0) & (page % stride == kv_head)
            return torch.where(is_listed, column * page_size + key % page_size, -1)

        return self._mask(num, pages, P, ((B - 1) * block_pages + K) * P, position_of)

    def _mask(
        self,
        num_blocks: torch.Tensor,
        blocks: torch.Tensor,
        block_size: int,
        num_keys: int,
        position_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> BlockMask:
        """BlockMask of keys whose position is visible to a row.

        mask_mod captures only tensors: torch.compile would specialise on each captured integer.
        """
        K, G, device = self.layout.K, self.layout.G, blocks.device
        last = self.positions.repeat_interleave(G, 1)
        first = torch.zeros_like(last) if self.window is None else (last + 1 - self.window).clamp(0)
        elements = torch.arange(last.shape[0] * K, dtype=torch.int32, device=device)
        tile_of, kv_head_of = elements // K, elements % K

        def mask_mod(
            element: torch.Tensor, _: torch.Tensor, row: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            tile = tile_of[element]
            position = position_of(tile, kv_head_of[element], key)
            return (position >= first[tile, row]) & (position <= last[tile, row])

        rows_at_once, num_rows = block_m(last.shape[1]), last.shape[1]
        return BlockMask.from_kv_blocks(
            num_blocks,
            blocks,
            BLOCK_SIZE=(-(-num_rows // rows_at_once) * rows_at_once, block_size),
            mask_mod=mask_mod,
            seq_lengths=(num_rows, num_keys),
            compute_q_blocks=False,
        )
