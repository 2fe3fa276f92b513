"""Draw one token per row of logits.

temperature 0: the highest logit, the lowest id among equals. Else, in this order: logits are
divided by the temperature; top-k keeps the k highest (and what equals the k-th); top-p keeps, from
the highest down (equals: lower id first), each token before which less than top_p of the remaining
probability lies; and of what is kept the token with the highest logit + g wins, which is an exact
draw from softmax (Gumbel-max). g = -log(-log u), u uniform from Philox-4x32-10 keyed by the row's
seed at counter (token_id // 4, position), word token_id % 4: it depends on seed, position and
token alone, so a draw survives batching, preemption and restart.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.contract import Implementations, refuse

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """How each of R rows is drawn. Values are checked where the manifest is read, not here."""

    temperature: torch.Tensor  # float32 [R], 0: greedy
    top_k: torch.Tensor  # int32 [R], 0: off
    top_p: torch.Tensor  # float32 [R], 1: off
    seeds: torch.Tensor  # int64 [R], 64 bits
    positions: torch.Tensor  # int64 [R]: index of the token that is drawn, within its sequence

    def __post_init__(self) -> None:
        R = self.temperature.shape
        for name, dtype in _DTYPES.items():
            value = getattr(self, name)
            if value.dim() != 1 or value.shape != R or value.dtype != dtype:
                refuse("SamplingTensors", name, value, f"{dtype} {list(R)}")


_DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "seeds": torch.int64,
    "positions": torch.int64,
}


def sample(logits: torch.Tensor, params: SamplingTensors, *, impl: str) -> torch.Tensor:
    """Token ids int64 [R] from logits float32 [R, V]. Does not modify the logits.

    Raises ValueError for shapes that do not fit, and for a row that holds NaN or whose maximum is
    infinite (they come from broken weights; no token would be right). An implementation on a device
    (triton) cannot raise without waiting: it returns -1 for such a row, and who reads the tokens
    must refuse it.
    """
    if logits.dim() != 2 or logits.dtype != torch.float32 or not logits.shape[1]:
        refuse("sample", "logits", logits, "torch.float32 [R, V]")
    if params.temperature.shape != logits.shape[:1]:
        refuse("sample", "params", params.temperature, f"{logits.shape[0]} rows, like logits")
    return _impls[impl].sample(logits, params)


def penalize_repetition(
    logits: torch.Tensor,
    row_ids: torch.Tensor,
    token_ids: torch.Tensor,
    penalty: torch.Tensor,
    *,
    impl: str,
) -> None:
    """Make tokens that occurred less likely, in place (Keskar et al. 2019, arXiv:1909.05858).

    A logit of logits float32 [R, V] at (row_ids[i], token_ids[i]) is divided by penalty[i] where
    it is positive, multiplied where negative; once, however often the pair is named (with one
    penalty per pair). row_ids, token_ids int64 [N]; penalty float32 [N]. Raises ValueError for
    shapes that do not fit and ids outside the logits; on a device (triton) such pairs are skipped.
    """
    op = "penalize_repetition"
    if logits.dim() != 2 or logits.dtype != torch.float32:
        refuse(op, "logits", logits, "torch.float32 [R, V]")
    N = row_ids.shape
    if row_ids.dim() != 1 or row_ids.dtype != torch.int64:
        refuse(op, "row_ids", row_ids, "int64 [N]")
    if token_ids.shape != N or token_ids.dtype != torch.int64:
        refuse(op, "token_ids", token_ids, f"int64 {list(N)}")
    if penalty.shape != N or penalty.dtype != torch.float32:
        refuse(op, "penalty", penalty, f"torch.float32 {list(N)}")
    if N[0]:
        _impls[impl].penalize_repetition(logits, row_ids, token_ids, penalty)


def penalize_seen(
    logits: torch.Tensor,
    seen: torch.Tensor,
    slots: torch.Tensor,
    penalty: torch.Tensor,
    *,
    impl: str,
) -> None:
    """`penalize_repetition` of all tokens that a state table (`step_state`) has seen, in place.

    A logit of logits float32 [R, V] at (r, t) is divided by penalty[r] where it is positive,
    multiplied where negative, if bit t % 32 of seen[slots[r], t // 32] is set. seen int32
    [N + 1, ceil(V / 32)], contiguous; slots int64 [R], 0 .. N; penalty float32 [R], 1: off.

    Raises ValueError for shapes that do not fit, and IndexError for a slot outside `seen`; on a
    device (triton) the row of such a slot is left as it is.
    """
    op = "penalize_seen"
    if logits.dim() != 2 or logits.dtype != torch.float32:
        refuse(op, "logits", logits, "torch.float32 [R, V]")
    R, V = logits.shape
    num_words = -(-V // 32)
    if seen.dim() != 2 or seen.shape[1] != num_words or seen.dtype != torch.int32:
        refuse(op, "seen", seen, f"int32 [N + 1, {num_words}]")
    if not seen.is_contiguous():
        raise ValueError(f"{op}: seen must be contiguous")
    if slots.shape != (R,) or slots.dtype != torch.int64:
        refuse(op, "slots", slots, f"int64 [{R}]")
    if penalty.shape != (R,) or penalty.dtype != torch.float32:
        refuse(op, "penalty", penalty, f"torch.float32 [{R}]")
    # The table of seen tokens is for a device: on a CPU the reference is enough.
    impl = "reference" if impl == "cpu" else impl
    if logits.numel():
        _impls[impl].penalize_seen(logits, seen, slots, penalty)
