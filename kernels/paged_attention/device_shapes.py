"""How the Triton kernels of paged_attention cut their work: sizes that compilation fixes.

Chosen from what fits: registers for a tile's scores and weighted values, shared memory for the
tiles of KV in flight. None of them has been measured on a device yet. The launches and what is
compiled ahead of time take their constants from here.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.launch import block_for

# tl.dot wants 16 rows at least; a decoding row has only G queries under a kv head.
_LEAST_ROWS = 16
# Tiles of KV in flight per program.
DECODE_STAGES, PREFILL_STAGES = 3, 2
DECODE_WARPS = 4


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a model and its pool fix. G query heads share a kv head."""

    H: int
    K: int
    D: int
    P: int
    dtype: torch.dtype

    @property
    def G(self) -> int:  # noqa: N802 - a shape letter
        return self.H // self.K

    @property
    def width(self) -> int:
        """D as the kernels compute it: a power of two, the rest is zeros."""
        return max(16, block_for(self.D))

    @property
    def decode_rows(self) -> int:
        return max(_LEAST_ROWS, block_for(self.G))

    def group_rows(self, num_rows: int) -> int:
        """Rows of a chunk's tile where the largest chunk has num_rows; 0: no chunks."""
        return max(self.decode_rows, block_for(num_rows)) if num_rows else 0

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def tile(self) -> int:
        """Positions of a tile: 16 KiB of keys and of values, so that three of each fit in 96."""
        return max(16, min(64, (16 << 10) // self._row_bytes))

    @property
    def prefill_rows(self) -> int:
        """128 rows fill a Hopper tensor core instruction twice; wide heads need the registers, and
        float32, which no tensor core multiplies exactly, needs most."""
        rows = 32 if self.dtype == torch.float32 else 128 if self.width <= 128 else 64
        return max(rows, block_for(self.G))

    @property
    def prefill_warps(self) -> int:
        is_large = self.dtype == torch.float32 or self.prefill_rows * self.width >= 128 * 128
        return 8 if is_large else 4

    @property
    def prefill_queries(self) -> int:
        return self.prefill_rows // self.G

    def merge_constants(self, group_rows: int) -> dict[str, object]:
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width}
        return {**sizes, "ROWS": self.decode_rows, "GROUP_ROWS": group_rows}

    def decode_constants(self, group_rows: int) -> dict[str, object]:
        own = {"P": self.P, "TILE": self.tile, "STAGES": DECODE_STAGES}
        return self.merge_constants(group_rows) | own

    def prefill_constants(self) -> dict[str, object]:
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width, "P": self.P}
        own = {"BLOCK_M": self.prefill_rows, "QUERIES": self.prefill_queries, "TILE": self.tile}
        return {**sizes, **own}
