"""How the Triton kernels of paged_attention cut their work: sizes that compilation fixes.

Chosen from what fits: registers for a tile's scores and weighted values, shared memory for the
tiles of KV in flight. Measured choices replace them where there are some (`tuning`).
"""

from dataclasses import dataclass

import torch

from thothy_kernels.launch import block_for

# tl.dot wants 16 rows at least; a decoding row has only G queries under a kv head.
_LEAST_ROWS = 16


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
    def decode_tile(self) -> int:
        """Positions: 16 KiB of keys and as much of values, three times in flight in 96 KiB."""
        return max(16, min(64, (16 << 10) // self._row_bytes))

    @property
    def decode_stages(self) -> int:
        """Tiles of KV in flight."""
        return 3

    @property
    def prefill_rows(self) -> int:
        """128 rows fill a Hopper tensor core instruction twice; wide heads need the registers, and
        float32, which no tensor core multiplies exactly, needs most."""
        rows = 32 if self.dtype == torch.float32 else 128 if self.width <= 128 else 64
        return max(rows, block_for(self.G))

    @property
    def prefill_tile(self) -> int:
        return max(16, min(64, (32 << 10) // self._row_bytes // 2))

    @property
    def prefill_warps(self) -> int:
        is_large = self.dtype == torch.float32 or self.prefill_rows * self.width >= 128 * 128
        return 8 if is_large else 4
