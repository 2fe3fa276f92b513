"""Device batch: the tensors of one step, built on the host except for tokens still unread."""

from dataclasses import dataclass

import torch

from thothy_batch.engine.execution.attention_metadata import host_metadata
from thothy_batch.engine.execution.batch import Batch
from thothy_batch.engine.execution.host_to_device import AnyArray, upload
from thothy_batch.model import ForwardInputs, GroupInputs
from thothy_batch.records import LayerGroup
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.sample import SamplingTensors


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """Inputs of a step on a device. R rows of logits are sampled."""

    inputs: ForwardInputs
    sampling: SamplingTensors
    slots: torch.Tensor  # int64 [R]: rows of the state table
    penalty: torch.Tensor  # float32 [R]


def to_device(
    batch: Batch, groups: tuple[LayerGroup, ...], last_tokens: torch.Tensor
) -> DeviceBatch:
    """Send a batch to the device of `last_tokens`, int64 [N + 1].

    `last_tokens`: the token drawn last by slot, the input of a decoding sequence.
    """
    sent = upload(_arrays(batch), last_tokens.device)
    token_ids, slots = sent["token_ids"], sent["slots"]
    if batch.num_decoding:
        decoding = slice(0, batch.num_decoding)
        token_ids[decoding] = last_tokens.index_select(0, slots[decoding])
    return DeviceBatch(
        ForwardInputs(
            token_ids=token_ids,
            positions=sent["rope_rows"],
            groups=tuple(_group(batch, sent, g, group.window) for g, group in enumerate(groups)),
            logits_rows=sent["logits_rows"],
        ),
        SamplingTensors(
            temperature=sent["temperature"],
            top_k=sent["top_k"],
            top_p=sent["top_p"],
            seeds=sent["seeds"],
            positions=sent["sample_positions"],
        ),
        slots,
        sent["penalty"],
    )


def _group(batch: Batch, sent: dict[str, torch.Tensor], g: int, window: int | None) -> GroupInputs:
    """Return slot mapping and attention metadata of a layer group."""
    host = host_metadata(batch, g, window)
    meta = AttentionMetadata(
        cu_seqlens=sent["cu_seqlens"],
        context_lens=sent["context_lens"],
        block_tables=sent[f"block_table{g}"],
        max_query_len=batch.max_query_len,
        window=window,
        shared=None if host.shared is None else sent["shared"],
        host=host,
    )
    return GroupInputs(sent[f"slot_mapping{g}"], meta)


def _arrays(batch: Batch) -> dict[str, AnyArray]:
    """Return the arrays of a batch that are sent to a device."""
    arrays: dict[str, AnyArray] = {name: getattr(batch, name) for name in _NAMES}
    for g, (table, mapping) in enumerate(zip(batch.block_tables, batch.slot_mappings, strict=True)):
        arrays |= {f"block_table{g}": table, f"slot_mapping{g}": mapping}
    return arrays


_NAMES = (
    *("token_ids", "rope_rows", "cu_seqlens", "context_lens", "shared", "logits_rows"),
    *("temperature", "top_k", "top_p", "seeds", "sample_positions", "slots", "penalty"),
)
