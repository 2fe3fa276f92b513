"""Plans of a step's launches: settings, tables and workspace of the decode and prefill kernels.

With tables at fixed addresses, padded to a fixed number of rows and chunks, a CUDA graph can
capture the launches: contexts, tables and prefix groups are read on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch

from thothy_kernels.launch import block_for, is_interpreted
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.triton_impl.decode_tables import DecodeTables
from thothy_kernels.paged_attention.triton_impl.merge_kernel import count_tiles_kernel
from thothy_kernels.paged_attention.triton_impl.shapes import AttentionShape
from thothy_kernels.tuning import LaunchSettings

# Programs of the decode kernel in the interpreter at two per multiprocessor: enough to cut pieces
# everywhere.
_INTERPRETED_PROGRAMS = 7


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Decode launches of one step; the same for all layers of a group."""

    settings: LaunchSettings  # of all launches, so that tiles are counted as they are computed
    tables: DecodeTables
    group_rows: int
    num_programs: int
    cu_tiles: torch.Tensor  # int32 [C + R + 1]
    chunk_states: torch.Tensor  # float32 [(K * C + programs) * group_rows * (D + 2)]
    row_states: torch.Tensor  # float32 [(K * R + programs) * G * (D + 2)]


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Prefill launch of one step."""

    settings: LaunchSettings
    tiles: torch.Tensor  # int32 [N, 2], see prefill_tiles


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All launches of one step."""

    decode: DecodePlan | None
    prefill: PrefillPlan | None

    def contexts_grew(self, meta: AttentionMetadata) -> None:
        """Recount the decode tiles on the device."""
        if self.decode is not None:
            count_tiles(self.decode, meta)


def plan_decode(meta: AttentionMetadata, tables: DecodeTables, shape: AttentionShape) -> None:
    """Plan a step whose sequences all decode, from tables on its device, without synchronising."""
    decode = decode_plan(tables, shape)
    count_tiles(decode, meta)
    meta.plans[shape] = StepPlan(decode, None)


def decode_plan(tables: DecodeTables, shape: AttentionShape) -> DecodePlan:
    """Plan of the decode launches, with uninitialised workspace; `count_tiles` completes it."""
    device, settings = tables.row_seqs.device, shape.decode_settings
    programs = _num_programs(device, settings)
    group_rows = shape.group_rows(tables.group_rows)
    chunks, rows = tables.num_chunks, tables.num_rows
    floats = shape.D + 2
    chunk_floats = (shape.K * chunks + programs) * group_rows * floats
    row_floats = (shape.K * rows + programs) * shape.G * floats
    states = (torch.empty(size, device=device) for size in (chunk_floats, row_floats))
    cu_tiles = torch.empty(chunks + rows + 1, dtype=torch.int32, device=device)
    return DecodePlan(settings, tables, group_rows, programs, cu_tiles, *states)


def count_tiles(plan: DecodePlan, meta: AttentionMetadata) -> None:
    """Compute plan.cu_tiles from meta.context_lens, on the device."""
    tables = plan.tables
    count_tiles_kernel[(1,)](
        *(plan.cu_tiles, meta.context_lens, tables.row_seqs, tables.skips, tables.chunks),
        *(tables.num_chunks, tables.num_rows, meta.window or 0),
        TILE=plan.settings.tile,
        BLOCK=max(128, block_for(tables.num_chunks + tables.num_rows)),
        HAS_WINDOW=meta.window is not None,
    )


def pad_tables(tables: DecodeTables, num_rows: int) -> dict[str, np.ndarray]:
    """skips, levels and chunks of a step on the host, padded to int32 [num_rows, 4] each.

    Padding rows skip nothing and have no chunk; padding chunks hold no position. Chunks never
    outnumber rows: there are two levels, and each chunk has at least two rows.
    """
    padded = {name: np.zeros((num_rows, 4), np.int32) for name in ("skips", "levels", "chunks")}
    padded["levels"][:, ::2] = -1
    for name, array in padded.items():
        found = getattr(tables, name).numpy()
        array[: len(found)] = found
    return padded


def _num_programs(device: torch.device, settings: LaunchSettings) -> int:
    if is_interpreted():
        return max(1, _INTERPRETED_PROGRAMS * settings.programs // 2)
    properties = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count) * settings.programs
