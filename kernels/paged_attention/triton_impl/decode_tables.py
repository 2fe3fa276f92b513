"""Tables of a step for the Triton kernels: decode rows, chunks and prefill tiles.

They are computed from host values and are the same for all layers. When contexts grow afterwards,
from one decode step to the next, only `count_tiles` has to run again, on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch

from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.prefix_groups import check_tables
from thothy_kernels.transfer import send

# Most rows of a chunk: with more, its state no longer fits in registers.
MAX_GROUP_ROWS = 64


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """Decode rows, the sequences with one query in order, and chunks of shared positions.

    R rows, C chunks; all tensors int32.
    """

    row_seqs: torch.Tensor  # [R]: sequence of the row
    skips: torch.Tensor  # [R, 4] of (first, length) twice: shared positions, ascending
    levels: torch.Tensor  # [R, 4] of (chunk or -1, the row's first row in the chunk) twice
    # [C, 4] of (first row, rows, start, stop): consecutive rows whose blocks for positions
    # start .. stop are the same.
    chunks: torch.Tensor
    group_rows: int  # rows times G of the largest chunk; 0: no chunks

    @property
    def num_rows(self) -> int:
        return len(self.row_seqs)

    @property
    def num_chunks(self) -> int:
        return len(self.chunks)

    def to(self, device: torch.device) -> "DecodeTables":
        """A copy on a device, without synchronising."""
        tensors = (self.row_seqs, self.skips, self.levels, self.chunks)
        return DecodeTables(
            *(send(tensor, device) for tensor in tensors),
            group_rows=self.group_rows,
        )


def decode_tables(meta: AttentionMetadata, G: int, block_size: int) -> DecodeTables:
    """Tables of a step's decode rows. meta is on the CPU; G query heads share a kv head.

    Raises ValueError for groups whose block tables differ.
    """
    cu = meta.cu_seqlens.numpy()
    row_seqs = np.flatnonzero(cu[1:] - cu[:-1] == 1).astype(np.int32)
    skips = np.zeros((len(row_seqs), 4), np.int32)
    levels = np.tile(np.array((-1, 0), np.int32), (len(row_seqs), 2))
    chunks = np.empty((0, 4), np.int32)
    if meta.shared is not None and len(meta.shared) and meta.window is None:
        check_tables(meta.shared.numpy(), meta.block_tables.numpy(), block_size)
        row_of = np.searchsorted(row_seqs, np.arange(len(cu) - 1)).astype(np.int32)
        chunks = _chunks(_decode_groups(meta.shared.numpy(), cu), row_of, MAX_GROUP_ROWS // G)
        _assign_chunks(chunks, G, skips, levels)
    tensors = (torch.from_numpy(array) for array in (row_seqs, skips, levels, chunks))
    return DecodeTables(*tensors, group_rows=int(chunks[:, 1].max(initial=0)) * G)


def _decode_groups(shared: np.ndarray, cu: np.ndarray) -> np.ndarray:
    """Groups whose members have one query each: the kernel shares reads only for these."""
    kept = [cu[end] - cu[first] == end - first for first, end in shared[:, :2]]
    return shared[np.array(kept, bool)]


def _chunks(shared: np.ndarray, row_of: np.ndarray, most: int) -> np.ndarray:
    """Cut groups into chunks of 2 to `most` rows, of about even size within a group."""
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


def _assign_chunks(chunks: np.ndarray, G: int, skips: np.ndarray, levels: np.ndarray) -> None:
    """Write each row's chunks to levels and the positions that they cover to skips."""
    for chunk, (first, size, start, stop) in enumerate(chunks.tolist()):
        for member in range(size):
            row = first + member
            level = 1 if levels[row, 0] >= 0 else 0
            levels[row, 2 * level : 2 * level + 2] = (chunk, member * G)
            skips[row, 2 * level : 2 * level + 2] = (start, stop - start)
            if level and start < skips[row, 0]:
                skips[row] = skips[row, (2, 3, 0, 1)]


def prefill_tiles(meta: AttentionMetadata, queries: int) -> torch.Tensor:
    """int32 [N, 2] of (sequence, first query): tiles of `queries` queries of prefill sequences.

    Prefill sequences have more than one query. Tiles are sorted by context, longest first. meta is
    on the CPU.
    """
    cu, context = meta.cu_seqlens.numpy(), meta.context_lens.numpy()
    num_queries = cu[1:] - cu[:-1]
    num_tiles = np.where(num_queries > 1, -(-num_queries // queries), 0)
    seqs = np.repeat(np.arange(len(num_tiles)), num_tiles)
    begins = np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    first = (np.arange(len(seqs)) - begins) * queries
    # A tile's cost grows with the context of its last query: the long ones must not start last.
    ends = context[seqs] - num_queries[seqs] + np.minimum(first + queries, num_queries[seqs])
    order = np.argsort(-ends, kind="stable")
    return torch.from_numpy(np.stack((seqs, first), 1)[order].astype(np.int32))
