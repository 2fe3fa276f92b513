"""What one forward pass takes. T tokens in the step, R rows that sample."""

from dataclasses import dataclass

import torch

from thothy_kernels.paged_attention import AttentionMetadata


@dataclass(frozen=True, slots=True)
class GroupInputs:
    """Where the layers of one group keep the step's keys and values, and what its tokens see."""

    slot_mapping: torch.Tensor  # int64 [T]: where each token's KV goes, -1 for nowhere
    attention: AttentionMetadata  # block tables and window of the group


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """The tokens of one step, those of a sequence side by side in order of position."""

    token_ids: torch.Tensor  # int64 [T]
    positions: torch.Tensor  # int64 [T]
    groups: tuple[GroupInputs, ...]  # one per layer group, in the order of `layer_groups`
    logits_rows: torch.Tensor  # int64 [R]: the tokens whose logits are wanted
