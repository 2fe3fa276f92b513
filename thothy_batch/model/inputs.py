"""The inputs of one forward pass. T tokens in the step, R rows that sample."""

from dataclasses import dataclass

import torch

from thothy_kernels.paged_attention import AttentionMetadata


@dataclass(frozen=True, slots=True)
class GroupInputs:
    """Slots and attention metadata of one layer group in a step."""

    slot_mapping: torch.Tensor  # int64 [T]: slot of each token's KV, -1 for none
    attention: AttentionMetadata  # with the block tables and the window of the group


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """The tokens of one step; those of a sequence are adjacent and in order of position."""

    token_ids: torch.Tensor  # int64 [T]
    positions: torch.Tensor  # int64 [T]: rows of the rope's table
    groups: tuple[GroupInputs, ...]  # one per layer group, in the order of `layer_groups`
    logits_rows: torch.Tensor  # int64 [R]: the tokens whose logits are computed
