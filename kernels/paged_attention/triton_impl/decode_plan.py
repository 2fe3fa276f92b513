"""What a decode step's launches need beside its tensors, made from tables on the device.

With tables at fixed addresses, padded to a fixed number of rows and chunks, a CUDA graph can hold
the launches: contexts, tables and who shares what are read on the device.
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

# Programs of the decode kernel in the interpreter, where a multiprocessor would have two: enough
# that pieces are cut everywhere.
_INTERPRETED_PROGRAMS = 7


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """The decode launches of one step; the same for all layers of a group."""

    settings: LaunchSettings  # of all launches: tiles are counted as they are computed
    tables: DecodeTables
    group_rows: int
    num_programs: int
    cu_tiles: torch.Tensor  # int32 [C + R + 1]
    chunk_states: torch.Tensor  # float32 [(K * C + programs) * group_rows * (D + 2)]
    row_states: torch.Tensor  # float32 [(K * R + programs) * G * (D + 2)]


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """The launch for the prompt chunks of one step."""

    settings: LaunchSettings
    tiles: torch.Tensor  # int32 [N, 2], see prefill_tiles


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All launches of one step."""

    decode: DecodePlan | None
    prefill: PrefillPlan | None

    def contexts_grew(self, meta: AttentionMetadata) -> None:
        """Count the decode tiles anew, on the device."""
        if self.decode is not None:
            count_tiles(self.decode, meta)


def plan_decode(meta: AttentionMetadata, tables: DecodeTables, shape: AttentionShape) -> None:
    """Plan a step whose sequences all decode, from tables on its device. Waits for nothing."""
    decode = decode_plan(tables, shape)
    count_tiles(decode, meta)
    meta.plans[shape] = StepPlan(decode, None)


def decode_plan(tables: DecodeTables, shape: AttentionShape) -> DecodePlan:
    device, settings = tables.row_seqs.device, shape.decode_settings
    programs = _num_programs(device, settings)
    group_rows = shape.group_rows(tables.group_rows)
    chunks, rows = tables.num_chunks, tables.num_rows
    floats = shape.D + 2
    of_chunks = (shape.K * chunks + programs) * group_rows * floats
    of_rows = (shape.K * rows + programs) * shape.G * floats
    states = (torch.empty(size, device=device) for size in (of_chunks, of_rows))
    cu_tiles = torch.empty(chunks + rows + 1, dtype=torch.int32, device=device)
    return DecodePlan(settings, tables, group_rows, programs, cu_tiles, *states)


def count_tiles(plan: DecodePlan, meta: AttentionMetadata) -> None:
    tables = plan.tables
    count_tiles_kernel[(1,)](
        *(plan.cu_tiles, meta.context_lens, tables.row_seqs, tables.skips, tables.chunks),
        *(tables.num_chunks, tables.num_rows, meta.window or 0),
        TILE=plan.settings.tile,
        BLOCK=max(128, block_for(tables.num_chunks + tables.num_rows)),
        HAS_WINDOW=meta.window is not None,
    )


def pad_tables(tables: DecodeTables, num_rows: int) -> dict[str, np.ndarray]:
    """skips, levels and chunks of a step on the host, int32 [num_rows, 4] each: rows that are
    padding skip nothing and have no chunk, chunks that are padding hold no position.

    There are never more chunks than rows: at each of two levels one has two rows at least.
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
