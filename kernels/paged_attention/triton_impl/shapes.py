"""How the Triton kernels of paged_attention cut their work: sizes that compilation fixes.

The defaults were chosen from what fits: registers for a tile's scores and weighted values, shared
memory for the tiles of KV in flight. What was measured to be faster on a device stands in the table
of `thothy_kernels.tuning` and goes before. The launches and what is compiled ahead of time take
their constants from here.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.launch import block_for
from thothy_kernels.tuning import LaunchSettings, candidates_from, settings_of

DECODE, PREFILL = "paged_attention.decode", "paged_attention.prefill"
# tl.dot wants 16 rows at least; a decoding row has only G queries under a kv head.
_LEAST_ROWS = 16
# Warps of the kernel that merges what decoding left in pieces.
MERGE_WARPS = 4
# Shared memory of a block that its programs cannot use.
_RESERVED_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a model and its pool fix. G query heads share a kv head."""

    H: int
    K: int
    D: int
    P: int
    dtype: torch.dtype

    @property
    def key(self) -> str:
        """Under which its launch settings are kept."""
        return f"H{self.H} K{self.K} D{self.D} P{self.P} {self.dtype}"

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
    def decode_default(self) -> LaunchSettings:
        """Tiles of 16 KiB of keys and as much of values, two of them on their way (every second
        stage is one), and two programs on a multiprocessor: 144 KiB of its shared memory."""
        tile = max(16, min(64, (16 << 10) // self._row_bytes))
        return LaunchSettings(tile=tile, warps=4 if self.width < 256 else 8, stages=5, programs=2)

    @property
    def prefill_default(self) -> LaunchSettings:
        """128 rows fill a Hopper tensor core instruction twice; wide heads need the registers, and
        float32, which no tensor core multiplies exactly, needs most. Larger tiles spill some."""
        rows = 32 if self.dtype == torch.float32 else 128 if self.width <= 128 else 64
        rows = max(rows, block_for(self.G))
        is_large = self.dtype == torch.float32 or rows * self.width >= 128 * 128
        tile = 16 if self.dtype == torch.float32 else 32
        return LaunchSettings(tile=tile, rows=rows, warps=8 if is_large else 4, stages=2)

    @property
    def decode_settings(self) -> LaunchSettings:
        """What plans of decode steps are made with; their launches take it from the plan."""
        return settings_of(DECODE, self.key, self.decode_default)

    @property
    def prefill_settings(self) -> LaunchSettings:
        """Like decode_settings, of prompt chunks."""
        return settings_of(PREFILL, self.key, self.prefill_default)

    def decode_candidates(self, shared_bytes: int) -> tuple[LaunchSettings, ...]:
        """The default, then what else fits a multiprocessor's shared memory of `shared_bytes`:
        more programs, or more in flight of each; larger and smaller tiles."""
        found = candidates_from(
            self.decode_default,
            {"programs": 3 / 2},
            {"stages": 3 / 5},
            {"stages": 3 / 5, "programs": 3 / 2},
            {"stages": 2 / 5, "programs": 2},
            {"programs": 1 / 2},
            {"tile": 1 / 2, "programs": 2},
            {"tile": 1 / 2, "programs": 2, "stages": 3 / 5},
            {"tile": 2, "warps": 2, "programs": 1 / 2},
            {"warps": 2},
        )
        return tuple(
            settings
            for settings in found
            if settings == found[0]
            or (settings.tile >= _LEAST_ROWS and self._decode_bytes(settings) <= shared_bytes)
        )

    def prefill_candidates(self, shared_bytes: int) -> tuple[LaunchSettings, ...]:
        """Like decode_candidates, of programs that may have a multiprocessor to themselves."""
        found = candidates_from(
            self.prefill_default,
            {"tile": 2},
            {"tile": 2, "stages": 3 / 2},
            {"tile": 2, "stages": 5 / 2},
            {"stages": 3 / 2},
            {"stages": 5 / 2},
            {"rows": 1 / 2, "warps": 1 / 2},
            {"rows": 1 / 2, "warps": 1 / 2, "stages": 3 / 2},
            # Eight warps share 128 rows of 128 elements; with four they would not fit registers.
            {"warps": 2 if self.prefill_default.warps == 4 else 1},
        )
        least_rows = max(_LEAST_ROWS, block_for(self.G))
        return tuple(
            settings
            for settings in found
            if settings == found[0]
            or (
                settings.tile >= _LEAST_ROWS
                and settings.rows >= least_rows
                and self._prefill_bytes(settings) <= shared_bytes
            )
        )

    def _decode_bytes(self, settings: LaunchSettings) -> int:
        """Shared memory of a multiprocessor's programs, of rows without chunks: those take more,
        and wait where it is not free."""
        of_program = self._bytes_in_flight(settings, settings.stages // 2)
        return settings.programs * (of_program + self.decode_rows * self._row_bytes)

    def _prefill_bytes(self, settings: LaunchSettings) -> int:
        """Shared memory of a program: its queries, and a tile that is being multiplied beside
        those that arrive."""
        of_tiles = self._bytes_in_flight(settings, settings.stages // 2 + 1)
        return of_tiles + settings.rows * self._row_bytes

    def _bytes_in_flight(self, settings: LaunchSettings, num_tiles: int) -> int:
        """Of keys and values. Block ids arrive before the tiles that they lead to, so only every
        second stage is one of tiles (as compiled for sm_90 by Triton 3.9)."""
        return _RESERVED_BYTES + num_tiles * 2 * settings.tile * self._row_bytes

    def merge_constants(self, group_rows: int) -> dict[str, object]:
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width}
        return {**sizes, "ROWS": self.decode_rows, "GROUP_ROWS": group_rows}

    def decode_constants(self, group_rows: int, settings: LaunchSettings) -> dict[str, object]:
        own = {"P": self.P, "TILE": settings.tile, "STAGES": settings.stages}
        return self.merge_constants(group_rows) | own

    def prefill_constants(self, settings: LaunchSettings) -> dict[str, object]:
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width, "P": self.P}
        queries = self.prefill_queries(settings)
        return {**sizes, "BLOCK_M": settings.rows, "QUERIES": queries, "TILE": settings.tile}

    def prefill_queries(self, settings: LaunchSettings) -> int:
        """Queries of a prefill program."""
        return settings.rows // self.G
