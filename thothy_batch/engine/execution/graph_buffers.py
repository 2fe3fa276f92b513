"""Graph buffers: the inputs of a decode step at fixed addresses, for one bucket of rows.

The host fills them once per batch; the device advances them from step to step. Rows beyond those of
the batch are padding: they have no context and write no KV, and their tokens are ignored.
"""

import numpy as np
import torch

from thothy_batch.engine.execution.attention_metadata import host_metadata
from thothy_batch.engine.execution.batch import Batch, Int32Array
from thothy_batch.engine.execution.host_to_device import AnyArray, PackedLayout, upload
from thothy_batch.model import ForwardInputs, GroupInputs
from thothy_batch.model.config import ModelConfig
from thothy_batch.records import LayerGroup
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.triton_impl.decode_plan import pad_tables, plan_decode
from thothy_kernels.paged_attention.triton_impl.decode_tables import (
    MAX_GROUP_ROWS,
    DecodeTables,
    decode_tables,
)
from thothy_kernels.paged_attention.triton_impl.shapes import AttentionShape
from thothy_kernels.sample import SamplingTensors
from thothy_kernels.step_state import DecodeInputs
from thothy_kernels.transfer import send


class GraphBuffers:
    """Inputs of decode steps of up to `num_rows` sequences, with at most M blocks each."""

    def __init__(
        self,
        num_rows: int,
        block_tables: tuple[torch.Tensor, ...],
        padding_slot: int,
        groups: tuple[LayerGroup, ...],
        shape: AttentionShape,
        device: torch.device,
        *,
        has_rope_offsets: bool = False,
    ) -> None:
        """`block_tables`: int32 [>= num_rows, M] per layer group, shared with other buckets.

        `padding_slot`: state slot of padding rows. `has_rope_offsets`: see `rope_offset_of`.
        """
        self.num_rows = num_rows
        self._groups = groups
        self._shape = shape
        self._has_rope_offsets = has_rope_offsets
        self._blank = _blank(num_rows, padding_slot, len(groups))
        self._layout = PackedLayout(self._blank)
        self._packed = send(self._layout.pack(self._blank), device)
        self._fixed = self._layout.views(self._packed)
        # Block tables are by far the largest input: only the batch's part is sent.
        self._block_tables = tuple(table[:num_rows] for table in block_tables)
        self._rows = torch.arange(num_rows + 1, dtype=torch.int32, device=device)
        self._logits_rows = self._rows[:-1].long()
        # For layers without shared prefixes.
        self._no_skips = torch.zeros((num_rows, 4), dtype=torch.int32, device=device)
        self._no_levels = self._no_skips.clone()
        self._no_levels[:, ::2].fill_(-1)
        self.inputs = DecodeInputs(
            **{name: self._fixed[name] for name in _PER_ROW},
            block_tables=self._block_tables,
            slot_mappings=tuple(self._fixed[f"slot_mapping{g}"] for g in range(len(groups))),
        )
        self.sampling = SamplingTensors(
            **{name: self._fixed[name] for name in _SAMPLING},
            positions=self._fixed["sample_positions"],
        )
        self.penalty = self._fixed["penalty"]

    def fill(self, batch: Batch) -> None:
        """Fill in a batch of decoding sequences. Token ids are not filled."""
        R = len(batch.context_lens)
        arrays = {name: value.copy() for name, value in self._blank.items()}
        for name in (*_PER_ROW, *_SAMPLING, "penalty"):
            arrays[name][:R] = getattr(batch, name)
        if batch.rope_offsets is not None:
            arrays["rope_offsets"][:R] = batch.rope_offsets
        for g, slots in enumerate(batch.slot_mappings):
            arrays[f"slot_mapping{g}"][:R] = slots
        arrays |= self._padded_tables(batch)
        device = self._packed.device
        self._packed.copy_(send(self._layout.pack(arrays), device), non_blocking=True)
        tables = {str(g): _ended(table) for g, table in enumerate(batch.block_tables)}
        for fixed, sent in zip(self._block_tables, upload(tables, device).values(), strict=True):
            width = min(fixed.shape[1], sent.shape[1])
            fixed[:R, :width].copy_(sent[:, :width])

    def forward_inputs(self, *, grouped: bool) -> ForwardInputs:
        """Return the decoder's inputs, and launch the kernels that plan the step's attention.

        Called once per step. `grouped`: sequences may share prefixes.
        """
        groups = []
        for g, group in enumerate(self._groups):
            meta = AttentionMetadata(
                cu_seqlens=self._rows,
                context_lens=self.inputs.context_lens,
                block_tables=self.inputs.block_tables[g],
                max_query_len=1,
                window=group.window,
                is_padded=True,
            )
            plan_decode(meta, self._tables(grouped and group.window is None), self._shape)
            groups.append(GroupInputs(self.inputs.slot_mappings[g], meta))
        positions = self.inputs.positions
        if self._has_rope_offsets:
            positions = positions + self._fixed["rope_offsets"]
        return ForwardInputs(
            token_ids=self.inputs.token_ids,
            positions=positions,
            groups=tuple(groups),
            logits_rows=self._logits_rows,
        )

    def _tables(self, grouped: bool) -> DecodeTables:
        fixed, rows = self._fixed, self._rows[:-1]
        if not grouped:
            return DecodeTables(rows, self._no_skips, self._no_levels, fixed["chunks"][:0], 0)
        return DecodeTables(rows, fixed["skips"], fixed["levels"], fixed["chunks"], MAX_GROUP_ROWS)

    def _padded_tables(self, batch: Batch) -> dict[str, AnyArray]:
        host = host_metadata(batch, 0, self._groups[0].window)
        tables = decode_tables(host, self._shape.G, self._shape.P)
        return dict(pad_tables(tables, self.num_rows))


_PER_ROW = ("token_ids", "positions", "context_lens", "sample_positions", "slots", "limits")
_SAMPLING = ("temperature", "top_k", "top_p", "seeds")


def attention_shape(config: ModelConfig, block_size: int, dtype: torch.dtype) -> AttentionShape:
    """Return the shape that the attention kernels are compiled for."""
    return AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim, block_size, dtype)


def _ended(block_table: Int32Array) -> Int32Array:
    """Append a column of -1: the device still holds an earlier batch's blocks there."""
    return np.pad(block_table, ((0, 0), (0, 1)), constant_values=-1)


def _blank(num_rows: int, slot: int, num_groups: int) -> dict[str, AnyArray]:
    """Return the arrays of a step that is all padding."""
    longs = ("token_ids", "positions", "rope_offsets", "sample_positions", "slots", "limits")
    arrays: dict[str, AnyArray] = {name: np.zeros(num_rows, np.int64) for name in (*longs, "seeds")}
    arrays["slots"][:] = slot
    arrays |= {name: np.zeros(num_rows, np.int32) for name in ("context_lens", "top_k")}
    arrays["temperature"] = np.zeros(num_rows, np.float32)
    arrays |= {name: np.ones(num_rows, np.float32) for name in ("top_p", "penalty")}
    for g in range(num_groups):
        arrays[f"slot_mapping{g}"] = np.full(num_rows, -1, np.int64)
    for name in ("skips", "levels", "chunks"):
        arrays[name] = np.zeros((num_rows, 4), np.int32)
    arrays["levels"][:, ::2] = -1
    return arrays
