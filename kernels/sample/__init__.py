"""Sampling of one token per row of logits, and repetition penalties.

With temperature 0 the token is the one with the highest logit, the lowest id among equals.
Otherwise, in this order:

- logits are divided by the temperature;
- top-k keeps the k highest, and ties with the k-th;
- top-p keeps, in descending order (ties: lower id first), each token before which less than top_p
  of the remaining probability lies;
- the kept token with the highest logit + g is sampled, an exact draw from the softmax (Gumbel-max).

g = -log(-log u), with u uniform from Philox-4x32-10 keyed by the row's seed at counter
(token_id // 4, position), word token_id % 4. g depends on seed, position and token alone, so a
sample is reproducible under batching, preemption and restart.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.contract import Implementations, refuse

__all__ = ["SamplingTensors", "penalize_repetition", "penalize_seen", "sample"]

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """Sampling parameters of R rows. Raises ValueError for shapes and dtypes that do not fit.

    Values are not checked here: the manifest's reader checks them.
    """

    temperature: torch.Tensor  # float32 [R], 0: greedy
    top_k: torch.Tensor  # int32 [R], 0: off
    top_p: torch.Tensor  # float32 [R], 1: off
    seeds: torch.Tensor  # int64 [R], 64 bits
    positions: torch.Tensor  # int64 [R]: index of the sampled token within its sequence

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
    """Sample token ids int64 [R] from logits float32 [R, V]. Does not modify the logits.

    Raises ValueError for shapes that do not fit, and for a row that holds NaN or whose maximum is
    infinite (broken weights; no token would be right). `triton` cannot raise without synchronising:
    it returns -1 for such a row, and the caller must refuse it.
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
    """Apply the repetition penalty in place (Keskar et al. 2019, arXiv:1909.05858).

    The logit of logits float32 [R, V] at (row_ids[i], token_ids[i]) is divided by penalty[i] if it
    is positive and multiplied if negative; once, even for a repeated pair (which has one penalty).
    row_ids, token_ids int64 [N]; penalty float32 [N]. Raises ValueError for shapes that do not fit
    and ids outside the logits; `triton` skips such pairs.
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
    """`penalize_repetition` of all tokens seen according to a state table (`step_state`), in place.

    The logit of logits float32 [R, V] at (r, t) is divided by penalty[r] if it is positive and
    multiplied if negative, provided bit t % 32 of seen[slots[r], t // 32] is set. seen int32
    [N + 1, ceil(V / 32)], contiguous; slots int64 [R], 0 .. N; penalty float32 [R], 1: off.

    Raises ValueError for shapes that do not fit, and IndexError for a slot outside `seen`; `triton`
    leaves the row of such a slot unchanged.
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
    # Only devices keep a table of seen tokens, so `cpu` uses the reference.
    impl = "reference" if impl == "cpu" else impl
    if logits.numel():
        _impls[impl].penalize_seen(logits, seen, slots, penalty)
