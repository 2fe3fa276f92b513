"""Speed of paged attention on the device: decode, decode of groups, prefill; heads of Llama 8B.

Decode is bound by reading each sequence's keys and values, counted as bytes; 85 % of the bandwidth
of a copy are wanted. Groups of four sequences share a beginning, which is read once for all of
them: 1.5 times as fast as without. Prefill is bound by its two products, of which a causal query
needs half: 350 TFLOP/s are wanted at 2,048 tokens, 420 at 8,192. Torch's attention stands beside:
over plain tensors, and where its version can over blocks, of 256 tokens. What is derived once a
step for all layers is not timed. bench_paged_attention_cpu.py is its like for the CPU.

Run: python tests/bench/bench_paged_attention.py
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from on_device import Case, main

from thothy_kernels.paged_attention import AttentionMetadata, paged_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "oracles"))
from varlen_oracle import reason_unavailable, varlen_paged_attention  # noqa: E402

H, K, D = 32, 8, 128
_SCALE = D**-0.5
_BLOCK_SIZE, _VARLEN_BLOCK_SIZE = 32, 256
_SHARERS = 4
# Context lengths; a token has 4 KiB of keys and values in one layer: 0.5 GB, 2 GB, a few long ones.
_DECODES = {
    "64 x 2k": [2048] * 64,
    "256 x 2k": [2048] * 256,
    "mixed": [128 + 61 * i for i in range(128)],
    "4 x 64k": [65_536] * 4,
}
# Sequences, shared and own tokens of each.
_GROUPS = {"64 x 4k": (64, 4096, 128), "256 x 1k": (256, 1024, 256)}
# Prompts, tokens of each, TFLOP/s wanted.
_PREFILLS = {"4 x 2k": (4, 2048, 350.0), "1 x 8k": (1, 8192, 420.0)}


@dataclass(frozen=True, slots=True)
class _Step:
    """Queries and caches in bfloat16, and who attends to what."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    meta: AttentionMetadata

    def run(self) -> torch.Tensor:
        return paged_attention(self.q, self.k, self.v, self.meta, scale=_SCALE, impl="triton")

    def run_varlen(self) -> torch.Tensor:
        return varlen_paged_attention(self.q, self.k, self.v, self.meta, _SCALE)


def cases(device: str, tiny: bool) -> Iterator[Case]:
    yield from _decodes(device, tiny)
    yield from _groups(device, tiny)
    yield from _prefills(device, tiny)


def _decodes(device: str, tiny: bool) -> Iterator[Case]:
    for name, lens in {"tiny": [40, 70]}.items() if tiny else _DECODES.items():
        num_bytes = sum(lens) * 2 * K * D * 2
        step = _step(lens, [1] * len(lens), device)
        yield Case(f"decode {name}", step.run, num_bytes=num_bytes, target=0.85)
        yield from _by_varlen(f"decode {name}", lens, [1] * len(lens), device, num_bytes)
        if len(set(lens)) == 1:
            yield _by_sdpa(f"decode {name}", len(lens), 1, lens[0], device, num_bytes)


def _groups(device: str, tiny: bool) -> Iterator[Case]:
    for name, (S, shared, own) in {"tiny": (8, 64, 9)}.items() if tiny else _GROUPS.items():
        num_bytes = S * (shared + own) * 2 * K * D * 2
        for is_grouped in (False, True):
            step = _step([shared + own] * S, [1] * S, device, shared, is_grouped)
            yield Case(
                f"decode in groups of {_SHARERS} {name}{'' if is_grouped else ', not told'}",
                step.run,
                num_bytes=num_bytes,
                beside=f"decode in groups of {_SHARERS} {name}, not told" if is_grouped else "",
                target_ratio=1.5 if is_grouped else None,
            )


def _prefills(device: str, tiny: bool) -> Iterator[Case]:
    chosen = {"tiny": (2, 40, 0.0)} if tiny else _PREFILLS
    for name, (S, n, target) in chosen.items():
        num_flops = 4 * D * H * S * n * (n + 1) // 2
        step = _step([n] * S, [n] * S, device)
        yield Case(f"prefill {name}", step.run, num_flops=num_flops, target_tflops=target)
        yield from _by_varlen(f"prefill {name}", [n] * S, [n] * S, device, 0, num_flops)
        yield _by_sdpa(f"prefill {name}", S, n, n, device, 0, num_flops)


def _by_varlen(
    name: str, lens: list[int], queries: list[int], device: str, num_bytes: int, num_flops: int = 0
) -> Iterator[Case]:
    if reason := reason_unavailable(_VARLEN_BLOCK_SIZE):
        print(f"torch varlen {name}: not run: {reason}")
        return
    step = _step(lens, queries, device, block_size=_VARLEN_BLOCK_SIZE)
    yield Case(f"torch varlen {name}", step.run_varlen, num_bytes=num_bytes, num_flops=num_flops)


def _by_sdpa(
    name: str, S: int, n: int, context: int, device: str, num_bytes: int, num_flops: int = 0
) -> Case:
    """Over plain tensors [S, heads, tokens, D]: all sequences of one length."""
    shapes = ((S, H, n, D), (S, K, context, D), (S, K, context, D))
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)

    def run() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=n > 1, enable_gqa=True)

    return Case(f"torch sdpa {name}", run, num_bytes=num_bytes, num_flops=num_flops)


def _step(
    lens: list[int],
    queries: list[int],
    device: str,
    shared: int = 0,
    is_told: bool = False,
    block_size: int = _BLOCK_SIZE,
) -> _Step:
    """`shared`: tokens that each _SHARERS sequences have in common; `is_told`: so says the step."""
    tables = _tables(lens, shared, block_size)
    groups = [[s, s + _SHARERS, 0, shared] for s in range(0, len(lens), _SHARERS)]
    host = AttentionMetadata(
        torch.tensor([0, *queries]).cumsum(0).int(),
        torch.tensor(lens, dtype=torch.int32),
        tables,
        max(queries),
        shared=torch.tensor(groups, dtype=torch.int32) if is_told else None,
    )
    meta = AttentionMetadata(
        host.cu_seqlens.to(device),
        host.context_lens.to(device),
        host.block_tables.to(device),
        host.max_query_len,
        shared=None if host.shared is None else host.shared.to(device),
        host=host,
    )
    num_blocks = int(tables.max()) + 1
    shapes = ((sum(queries), H, D), *[(num_blocks, K, block_size, D)] * 2)
    tensors = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)
    return _Step(*tensors, meta)


def _tables(lens: list[int], shared: int, block_size: int) -> torch.Tensor:
    """Blocks in random order."""
    widths = [-(-length // block_size) for length in lens]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(sum(widths), generator=generator, dtype=torch.int32)
    tables = torch.full((len(lens), max(widths)), -1, dtype=torch.int32)
    for row, mine in enumerate(ids.split(widths)):
        tables[row, : len(mine)] = mine
    for row in range(0, len(lens), _SHARERS) if shared else ():
        members = slice(row, row + _SHARERS)
        tables[members, : shared // block_size] = tables[row, : shared // block_size]
    return tables


if __name__ == "__main__":
    main(cases, __doc__)
