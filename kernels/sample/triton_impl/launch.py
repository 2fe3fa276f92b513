"""sample and both penalties on a CUDA device, without a sort and without synchronising.

There are always three launches: `scan_kernel` reads the logits once, in chunks over the whole
device; then one of two kernels finishes each row, and the other one's program exits at once. Close
draws and the sums for top-p are computed in float64: a kept set differs from the reference's only
where top_p of the weight and the weight before a token agree to about 1e-12 of the whole.

A row that the contract refuses (NaN, an infinite maximum) gets token -1, and a pair outside the
logits is skipped: raising would synchronise.
"""

from collections.abc import Callable

import torch
import triton

from thothy_kernels.launch import Variant, check_device
from thothy_kernels.sample import SamplingTensors
from thothy_kernels.sample.triton_impl.filter_kernel import filter_kernel
from thothy_kernels.sample.triton_impl.penalty_kernel import penalty_kernel
from thothy_kernels.sample.triton_impl.scan_kernel import scan_kernel
from thothy_kernels.sample.triton_impl.seen_kernel import seen_kernel
from thothy_kernels.sample.triton_impl.winner_kernel import winner_kernel
from thothy_kernels.tuning import (
    LaunchSettings,
    Outputs,
    Trial,
    candidates_from,
    normal,
    settings_of,
)

# Tokens of a group: one vector load of a warp, and its maximum adds 1/128 of the row to the writes.
_GROUP = 128
# Tokens of a program of the scan: 16 kB in flight, 16 logits a thread; a row of 151,936 has 38.
_CHUNK, _SCAN_WARPS = 4096, 8
# Maxima per pass; a row of 262,144 tokens has 2,048.
_BLOCK = 1024
# One group is computed at a time: threads beyond its tokens would idle.
_WINNER_WARPS = 4
# Bits per round of the search: 8 bins times the 4 tokens of a thread in float64 take 64 of its
# registers, which leaves room for two programs on a multiprocessor.
_TILE, _BITS, _FILTER_WARPS = 1024, 3, 8
_PAIRS = 256
# Words of a program of `penalize_seen`: 2,048 tokens, 16 a thread.
_WORDS = 64
_SCAN = "sample.scan"


def sample(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    rows = [
        value.contiguous()
        for value in (
            params.temperature,
            params.top_k,
            params.top_p,
            params.seeds,
            params.positions,
        )
    ]
    check_device("sample", logits, *rows)
    R, V = logits.shape
    tokens = torch.empty(R, dtype=torch.int64, device=logits.device)
    if R == 0:
        return tokens
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    scan = settings_of(_SCAN, _key(V), _scan_default())
    num_chunks, num_groups = triton.cdiv(V, scan.tile), triton.cdiv(V, _GROUP)
    maxima = logits.new_empty(R, num_groups)
    scores = torch.empty_like(maxima)
    masses = logits.new_empty((R, num_chunks, 2), dtype=torch.float64)
    lists = torch.empty_like(maxima, dtype=torch.int32)
    sizes = (V, logits.stride(0))
    scan_kernel[(R * num_chunks,)](
        *(logits, *rows, maxima, scores, masses, *sizes, num_chunks, num_groups),
        GROUP=_GROUP,
        CHUNK=scan.tile,
        num_warps=scan.warps,
    )
    winner_kernel[(R,)](
        *(logits, *rows, maxima, scores, tokens, *sizes, num_groups),
        GROUP=_GROUP,
        BLOCK=_BLOCK,
        num_warps=_WINNER_WARPS,
    )
    filter_kernel[(R,)](
        *(logits, *rows, maxima, masses, lists, tokens, *sizes, num_chunks, num_groups),
        GROUP=_GROUP,
        TILE=_TILE,
        BLOCK=_BLOCK,
        BITS=_BITS,
        num_warps=_FILTER_WARPS,
    )
    return tokens


def _key(V: int) -> str:
    return f"V{V}"


def _scan_default() -> LaunchSettings:
    return LaunchSettings(tile=_CHUNK, warps=_SCAN_WARPS)


def trial(V: int, device: torch.device, num_rows: int = 64) -> Trial:
    """Tuning trial of the scan, which dominates sampling without filters."""

    def prepare() -> Callable[[], Outputs]:
        logits = normal((num_rows, V), torch.float32, device)
        rows = torch.arange(num_rows, device=device)
        ones = torch.ones(num_rows, device=device)
        params = SamplingTensors(ones, torch.zeros_like(rows, dtype=torch.int32), ones, rows, rows)
        return lambda: (sample(logits, params),)

    candidates = candidates_from(
        _scan_default(), {"warps": 1 / 2}, {"warps": 2}, {"tile": 1 / 2, "warps": 1 / 2},
        {"tile": 1 / 2}, {"tile": 2, "warps": 2}, {"tile": 2},
    )  # fmt: skip
    return Trial(_SCAN, _key(V), tuple(candidates), prepare)


def penalize_repetition(
    logits: torch.Tensor, row_ids: torch.Tensor, token_ids: torch.Tensor, penalty: torch.Tensor
) -> None:
    check_device("penalize_repetition", logits, row_ids, token_ids, penalty)
    row_ids, token_ids, penalty = (t.contiguous() for t in (row_ids, token_ids, penalty))
    penalised = torch.empty_like(penalty)
    num_pairs = len(penalty)
    for writes in (False, True):
        penalty_kernel[(triton.cdiv(num_pairs, _PAIRS),)](
            *(logits, row_ids, token_ids, penalty, penalised),
            *(*logits.shape, *logits.stride(), num_pairs),
            WRITES=writes,
            BLOCK=_PAIRS,
        )


def penalize_seen(
    logits: torch.Tensor, seen: torch.Tensor, slots: torch.Tensor, penalty: torch.Tensor
) -> None:
    check_device("penalize_seen", logits, seen, slots, penalty)
    R, V = logits.shape
    num_chunks = triton.cdiv(seen.shape[1], _WORDS)
    seen_kernel[(R * num_chunks,)](
        *(logits, seen, slots.contiguous(), penalty.contiguous()),
        *(V, *logits.stride(), *seen.shape),
        CHUNKS=num_chunks,
        WORDS=_WORDS,
    )


def variants() -> list[Variant]:
    """Variants of all sampling kernels."""
    rows = {
        "logits": "*fp32",
        "temperatures": "*fp32",
        "top_ks": "*i32",
        "top_ps": "*fp32",
        "seeds": "*i64",
        "positions": "*i64",
        "maxima": "*fp32",
    }
    sizes = {"V": "i32", "row_stride": "i32"}
    scan = {"scores": "*fp32", "masses": "*fp64", **sizes, "num_chunks": "i32", "num_groups": "i32"}
    winner = {"scores": "*fp32", "winners": "*i64", **sizes, "num_groups": "i32"}
    chosen = {"masses": "*fp64", "lists": "*i32", "winners": "*i64", **sizes}
    counts = {"num_chunks": "i32", "num_groups": "i32"}
    search = {"GROUP": _GROUP, "TILE": _TILE, "BLOCK": _BLOCK, "BITS": _BITS}
    return [
        Variant("scan", scan_kernel, rows | scan, {"GROUP": _GROUP, "CHUNK": _CHUNK}, _SCAN_WARPS),
        Variant(
            "winner",
            winner_kernel,
            rows | winner,
            {"GROUP": _GROUP, "BLOCK": _BLOCK},
            _WINNER_WARPS,
        ),
        Variant("filter", filter_kernel, rows | chosen | counts, search, _FILTER_WARPS),
        *(_penalty_variant(writes) for writes in (False, True)),
        _seen_variant(),
    ]


def _penalty_variant(writes: bool) -> Variant:
    pairs = {"logits": "*fp32", "row_ids": "*i64", "token_ids": "*i64"}
    values = {"penalty": "*fp32", "penalised": "*fp32"}
    sizes = dict.fromkeys(("R", "V", "row_stride", "token_stride", "num_pairs"), "i32")
    constants = {"WRITES": writes, "BLOCK": _PAIRS}
    name = "penalty_written" if writes else "penalty"
    return Variant(name, penalty_kernel, pairs | values | sizes, constants)


def _seen_variant() -> Variant:
    """Variant for the vocabulary of Qwen3: 151,936 tokens in 4,748 words."""
    table = {"logits": "*fp32", "seen": "*i32", "slots": "*i64", "penalty": "*fp32"}
    sizes = dict.fromkeys(("V", "row_stride", "num_slots", "num_words"), "i32")
    constants = {"token_stride": 1, "CHUNKS": triton.cdiv(4748, _WORDS), "WORDS": _WORDS}
    divisible = ("V", "row_stride")
    return Variant("seen", seen_kernel, table | sizes, constants, divisible=divisible)
