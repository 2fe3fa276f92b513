"""sample and penalize_repetition in plain torch: the definition."""

import torch

from thothy_kernels.sample import SamplingTensors

_LOW32 = 0xFFFFFFFF


def sample(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    tokens = torch.empty(logits.shape[0], dtype=torch.int64)
    for row, row_logits in enumerate(logits):
        if not bool(row_logits.max().isfinite()):  # the maximum with a NaN is NaN
            raise ValueError(
                f"sample: row {row} of the logits holds NaN, or its maximum is infinite"
            )
        temperature = float(params.temperature[row])
        # A stable sort puts the lowest id first among equal logits.
        order = row_logits.sort(descending=True, stable=True).indices
        if temperature > 0.0:
            scores = row_logits.double() / temperature
            order = _top_k(order, row_logits, int(params.top_k[row]))
            order = _top_p(order, scores, float(params.top_p[row]))
            noise = gumbel(int(params.seeds[row]), int(params.positions[row]), order)
            order = order[(scores[order] + noise).argmax(keepdim=True)]
        tokens[row] = order[0]
    return tokens


def _top_k(order: torch.Tensor, logits: torch.Tensor, k: int) -> torch.Tensor:
    if not 0 < k < len(order):
        return order
    return order[logits[order] >= logits[order[k - 1]]]


def _top_p(order: torch.Tensor, scores: torch.Tensor, p: float) -> torch.Tensor:
    if p >= 1.0:
        return order
    weights = torch.exp(scores[order] - scores[order[0]])
    before = torch.nn.functional.pad(weights.cumsum(0)[:-1], (1, 0))
    kept = before < p * weights.sum()
    kept[0] = True
    return order[kept]


def gumbel(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    """-log(-log u) of token ids, float64, u in (0, 1) at counter (token_id // 4, position)."""
    position_low, position_high = position & _LOW32, (position >> 32) & _LOW32
    counter = [
        token_ids // 4,
        torch.zeros_like(token_ids),
        torch.full_like(token_ids, position_low),
        torch.full_like(token_ids, position_high),
    ]
    words = philox_4x32_10(counter, (seed & _LOW32, (seed >> 32) & _LOW32))
    word = torch.stack(words).gather(0, (token_ids % 4)[None])[0]
    uniform = (word.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log(uniform))


def philox_4x32_10(counter: list[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """Philox-4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers").

    Four random words from four counter words and two key words, all of 32 bits held in int64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW32, (k1 + 0xBB67AE85) & _LOW32
    return [c0, c1, c2, c3]


def _multiply(constant: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a product of 32-bit words, by halves to stay within int64."""
    by_low = (constant & 0xFFFF) * word
    by_high = (constant >> 16) * word + (by_low >> 16)
    return by_high >> 16, ((by_high & 0xFFFF) << 16) | (by_low & 0xFFFF)


def penalize_repetition(
    logits: torch.Tensor, row_ids: torch.Tensor, token_ids: torch.Tensor, penalty: torch.Tensor
) -> None:
    R, V = logits.shape
    if bool(((row_ids < 0) | (row_ids >= R)).any()):
        raise ValueError(f"penalize_repetition: row_ids must lie in 0 .. {R - 1}")
    if bool(((token_ids < 0) | (token_ids >= V)).any()):
        raise ValueError(f"penalize_repetition: token_ids must lie in 0 .. {V - 1}")
    values = logits[row_ids, token_ids]
    # A repeated pair is read twice and written twice with the same value.
    logits[row_ids, token_ids] = torch.where(values < 0, values * penalty, values / penalty)


def penalize_seen(
    logits: torch.Tensor, seen: torch.Tensor, slots: torch.Tensor, penalty: torch.Tensor
) -> None:
    V = logits.shape[1]
    bits = torch.arange(32, dtype=torch.int32, device=seen.device)
    # Row by row, because the bits of all rows would take as much memory as the logits.
    for values, slot, factor in zip(logits, slots[:, None], penalty, strict=True):
        words = seen.index_select(0, slot)[0]
        is_seen = ((words[:, None] >> bits) & 1).flatten()[:V] != 0
        penalised = torch.where(values < 0, values * factor, values / factor)
        values.copy_(torch.where(is_seen, penalised, values))
