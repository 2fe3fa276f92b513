"""Shapes and launch settings of the Triton kernels of paged_attention: compile-time constants.

Defaults follow from capacity: registers for a tile's scores and weighted values, shared memory for
tiles of KV in flight. Settings that were measured to be faster on a device are in the table of
`thothy_kernels.tuning` and take precedence. Launches and ahead-of-time variants share these
constants.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.launch import block_for
from thothy_kernels.tuning import LaunchSettings, candidates_from, settings_of

DECODE, PREFILL = "paged_attention.decode", "paged_attention.prefill"
# tl.dot needs at least 16 rows; a decode row has only G queries under a kv head.
_LEAST_ROWS = 16
# Warps of the kernel that merges pieces of decode rows.
MERGE_WARPS = 4
# Shared memory of a block that its programs cannot use.
_RESERVED_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Shape of a model's attention and its pool. G = H // K query heads share a kv head."""

    H: int
    K: int
    D: int
    P: int
    dtype: torch.dtype

    @property
    def key(self) -> str:
        """Key of its launch settings in the tuning table."""
        return f"H{self.H} K{self.K} D{self.D} P{self.P} {self.dtype}"

    @property
    def G(self) -> int:  # noqa: N802 - a shape letter
        return self.H // self.K

    @property
    def width(self) -> int:
        """D padded with zeros to a power of two."""
        return max(16, block_for(self.D))

    @property
    def decode_rows(self) -> int:
        """G padded for tl.dot."""
        return max(_LEAST_ROWS, block_for(self.G))

    def group_rows(self, num_rows: int) -> int:
        """Rows of a chunk's tile if the largest chunk has num_rows; 0: no chunks."""
        return max(self.decode_rows, block_for(num_rows)) if num_rows else 0

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def decode_default(self) -> LaunchSettings:
        """Default settings of decode: tiles of 16 KiB of keys and as much of values, two of them in
        flight (every second stage is one), and two programs on a multiprocessor, which take 144 KiB
        of its shared memory."""
        tile = max(16, min(64, (16 << 10) // self._row_bytes))
        return LaunchSettings(tile=tile, warps=4 if self.width < 256 else 8, stages=5, programs=2)

    @property
    def prefill_default(self) -> LaunchSettings:
        """Default settings of prefill. 128 rows fill a Hopper tensor core instruction twice. Wide
        heads need the registers, and float32, which no tensor core multiplies exactly, needs most.
        Larger tiles spill."""
        rows = 32 if self.dtype == torch.float32 else 128 if self.width <= 128 else 64
        rows = max(rows, block_for(self.G))
        is_large = self.dtype == torch.float32 or rows * self.width >= 128 * 128
        tile = 16 if self.dtype == torch.float32 else 32
        return LaunchSettings(tile=tile, rows=rows, warps=8 if is_large else 4, stages=2)

    @property
    def decode_settings(self) -> LaunchSettings:
        """Current settings of decode. Launches use those of their plan."""
        return settings_of(DECODE, self.key, self.decode_default)

    @property
    def prefill_settings(self) -> LaunchSettings:
        """Current settings of prefill. Launches use those of their plan."""
        return settings_of(PREFILL, self.key, self.prefill_default)

    def decode_candidates(self, shared_bytes: int) -> tuple[LaunchSettings, ...]:
        """The default, then candidates that fit `shared_bytes` of a multiprocessor: more programs,
        more tiles in flight, larger and smaller tiles."""
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
        """The default, then candidates of which one program fits `shared_bytes`."""
        found = candidates_from(
            self.prefill_default,
            {"tile": 2},
            {"tile": 2, "stages": 3 / 2},
            {"tile": 2, "stages": 5 / 2},
            {"stages": 3 / 2},
            {"stages": 5 / 2},
            {"rows": 1 / 2, "warps": 1 / 2},
            {"rows": 1 / 2, "warps": 1 / 2, "stages": 3 / 2},
            # Eight warps share 128 rows of 128 elements, which exceed the registers of four.
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
        """Shared memory of a multiprocessor's decode programs, for rows without chunks. Programs
        with chunks take more and queue for it."""
        per_program = self._bytes_in_flight(settings, settings.stages // 2)
        return settings.programs * (per_program + self.decode_rows * self._row_bytes)

    def _prefill_bytes(self, settings: LaunchSettings) -> int:
        """Shared memory of a prefill program: queries, the current tile, and tiles in flight."""
        tile_bytes = self._bytes_in_flight(settings, settings.stages // 2 + 1)
        return tile_bytes + settings.rows * self._row_bytes

    def _bytes_in_flight(self, settings: LaunchSettings, num_tiles: int) -> int:
        """Shared memory of `num_tiles` tiles of keys and values. Block ids are loaded a stage
        before their tiles, so only every second stage holds tiles (sm_90, Triton 3.9)."""
        return _RESERVED_BYTES + num_tiles * 2 * settings.tile * self._row_bytes

    def merge_constants(self, group_rows: int) -> dict[str, object]:
        """Compile-time constants of merge_kernel."""
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width}
        return {**sizes, "ROWS": self.decode_rows, "GROUP_ROWS": group_rows}

    def decode_constants(self, group_rows: int, settings: LaunchSettings) -> dict[str, object]:
        """Compile-time constants of decode_kernel, without flags."""
        own = {"P": self.P, "TILE": settings.tile, "STAGES": settings.stages}
        return self.merge_constants(group_rows) | own

    def prefill_constants(self, settings: LaunchSettings) -> dict[str, object]:
        """Compile-time constants of prefill_kernel, without flags."""
        sizes = {"K": self.K, "G": self.G, "D": self.D, "WIDTH": self.width, "P": self.P}
        queries = self.prefill_queries(settings)
        return {**sizes, "BLOCK_M": settings.rows, "QUERIES": queries, "TILE": settings.tile}

    def prefill_queries(self, settings: LaunchSettings) -> int:
        """Queries of a prefill program."""
        return settings.rows // self.G
