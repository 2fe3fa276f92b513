"""What the Triton kernels need to know of a step beyond its metadata; the same for all layers.

Made from values that the host has: no look at the device. Contexts may grow afterwards, as they do
from one decode step to the next; `count_tiles` then has to run again, on the device alone.
"""

from dataclasses import dataclass

import numpy as np
import torch

from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.prefix_groups import check_tables
from thothy_kernels.transfer import send

# Rows of a chunk at most: beyond it the state of a chunk no longer fits in registers.
MAX_GROUP_ROWS = 64


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """Rows are the sequences with one query, in order. R rows, C chunks; all int32."""

    row_seqs: torch.Tensor  # [R]: which sequence
    skips: torch.Tensor  # [R, 4] of (first, length) twice: shared positions, ascending
    levels: torch.Tensor  # [R, 4] of (chunk or -1, first of its rows) twice
    # [C, 4] of (first row, rows, start, stop): consecutive rows whose blocks for positions
    # start .. stop are the same.
    chunks: torch.Tensor
    group_rows: int  # rows times heads per kv head that the largest chunk has; 0: no chunks

    @property
    def num_rows(self) -> int:
        return len(self.row_seqs)

    @property
    def num_chunks(self) -> int:
        return len(self.chunks)

    def to(self, device: torch.device) -> "DecodeTables":
        tensors = (self.row_seqs, self.skips, self.levels, self.chunks)
        return DecodeTables(
            *(send(tensor, device) for tensor in tensors),
            group_rows=self.group_rows,
        )


def check_blocks_exist(meta: AttentionMetadata, shape: tuple[int, int]) -> None:
    """ValueError for a block id outside the pool where a query needs one. shape: P and B."""
    P, B = shape
    cu, context = meta.cu_seqlens.numpy(), meta.context_lens.numpy()
    tables = meta.block_tables.numpy()
    num_queries = cu[1:] - cu[:-1]
    first = np.zeros_like(context)
    if meta.window is not None:
        first = np.maximum(0, context - num_queries + 1 - meta.window) // P
    needed = -(-context // P)
    at = np.arange(tables.shape[1])
    is_needed = (at >= first[:, None]) & (at < needed[:, None]) & (num_queries > 0)[:, None]
    is_bad = (is_needed & ((tables < 0) | (tables >= B))).any(1)
    is_bad |= (needed > tables.shape[1]) & (num_queries > 0)
    if is_bad.any():
        seq = int(is_bad.argmax())
        raise ValueError(
            f"paged_attention: sequence {seq} has a context of {context[seq]} tokens and needs "
            f"{needed[seq]} block ids within 0 .. {B - 1} in its row of block_tables"
        )


def decode_tables(meta: AttentionMetadata, G: int, block_size: int) -> DecodeTables:
    """Of a step's decoding rows. meta: on the CPU; G query heads share a kv head."""
    cu = meta.cu_seqlens.numpy()
    row_seqs = np.flatnonzero(cu[1:] - cu[:-1] == 1).astype(np.int32)
    skips = np.zeros((len(row_seqs), 4), np.int32)
    levels = np.tile(np.array((-1, 0), np.int32), (len(row_seqs), 2))
    chunks = np.empty((0, 4), np.int32)
    if meta.shared is not None and len(meta.shared) and meta.window is None:
        check_tables(meta.shared.numpy(), meta.block_tables.numpy(), block_size)
        row_of = np.searchsorted(row_seqs, np.arange(len(cu) - 1)).astype(np.int32)
        chunks = _chunks(_of_rows(meta.shared.numpy(), cu), row_of, MAX_GROUP_ROWS // G)
        _note_chunks(chunks, G, skips, levels)
    tensors = (torch.from_numpy(array) for array in (row_seqs, skips, levels, chunks))
    return DecodeTables(*tensors, group_rows=int(chunks[:, 1].max(initial=0)) * G)


def _of_rows(shared: np.ndarray, cu: np.ndarray) -> np.ndarray:
    """The groups whose members have one query each: the kernel reads for no others."""
    kept = [cu[end] - cu[first] == end - first for first, end in shared[:, :2]]
    return shared[np.array(kept, bool)]


def _chunks(shared: np.ndarray, row_of: np.ndarray, most: int) -> np.ndarray:
    """Groups cut into chunks of two rows to `most`, all of a group about even."""
    chunks = []
    for first, end, start, stop in shared.tolist():
        num_members = end - first
        num_chunks = -(-num_members // most) if most > 1 else 0
        for chunk in range(num_chunks):
            begin = num_members * chunk // num_chunks
            size = num_members * (chunk + 1) // num_chunks - begin
            if size > 1:
                chunks.append((row_of[first] + begin, size, start, stop))
    return np.array(chunks, np.int32).reshape(-1, 4)


def _note_chunks(chunks: np.ndarray, G: int, skips: np.ndarray, levels: np.ndarray) -> None:
    """Write down for each row which chunks hold it, and which positions they save it."""
    for chunk, (first, size, start, stop) in enumerate(chunks.tolist()):
        for member in range(size):
            row = first + member
            level = 1 if levels[row, 0] >= 0 else 0
            levels[row, 2 * level : 2 * level + 2] = (chunk, member * G)
            skips[row, 2 * level : 2 * level + 2] = (start, stop - start)
            if level and start < skips[row, 0]:
                skips[row] = skips[row, (2, 3, 0, 1)]


def prefill_tiles(meta: AttentionMetadata, queries: int) -> torch.Tensor:
    """int32 [N, 2] of (sequence, first query): `queries` at a time of the sequences that have more
    than one, longest context first. meta: on the CPU."""
    cu, context = meta.cu_seqlens.numpy(), meta.context_lens.numpy()
    num_queries = cu[1:] - cu[:-1]
    num_tiles = np.where(num_queries > 1, -(-num_queries // queries), 0)
    seqs = np.repeat(np.arange(len(num_tiles)), num_tiles)
    begins = np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    first = (np.arange(len(seqs)) - begins) * queries
    # A tile's cost goes with what its last query sees: the long ones must not start last.
    sees = context[seqs] - num_queries[seqs] + np.minimum(first + queries, num_queries[seqs])
    order = np.argsort(-sees, kind="stable")
    return torch.from_numpy(np.stack((seqs, first), 1)[order].astype(np.int32))
