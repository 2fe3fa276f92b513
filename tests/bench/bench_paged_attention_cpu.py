"""Speed of paged attention on the CPU: one layer, decode and prefill; the last line is JSON.

Run: python tests/bench/bench_paged_attention_cpu.py [--threads 2] [--impl cpu] [--repeats 15]

Decode is a step of 32 sequences with 18,186 cached tokens between them, 8 kv heads of 128, two
query heads each, bfloat16: compare with the time that reading the KV once needs at the measured
memory bandwidth. Prefill is compute: compare with the GFLOP/s of a float32 matrix product.
Two calls are made before timing starts; figures are the median and the spread of the rest.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

from thothy_kernels.paged_attention import AttentionMetadata, paged_attention

_KV_HEADS, _GROUP, _HEAD_DIM, _BLOCK_SIZE = 8, 2, 128, 32
_DECODE_TOKENS = 18_186
_PREFILLS = {
    "prefill_512": [(512, 512)],
    "prefill_2048": [(2048, 2048)],
    "prefill_chunks": [(128, 128 * (i + 1)) for i in range(4)],
    "mixed": [(256, 256), *((1, 500) for _ in range(16))],
}


def _decode_lengths() -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 1037, (32,), generator=generator).tolist()
    lengths[-1] += _DECODE_TOKENS - sum(lengths)
    return [(1, length) for length in lengths]


def _inputs(
    work: list[tuple[int, int]], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, AttentionMetadata]:
    generator = torch.Generator().manual_seed(1)
    num_blocks = [-(-context // _BLOCK_SIZE) for _, context in work]
    ids = torch.randperm(sum(num_blocks), generator=generator, dtype=torch.int32)
    tables = torch.full((len(work), max(num_blocks)), -1, dtype=torch.int32)
    for row, mine in enumerate(ids.split(num_blocks)):
        tables[row, : len(mine)] = mine
    shape = (sum(num_blocks), _KV_HEADS, _BLOCK_SIZE, _HEAD_DIM)
    k = torch.randn(shape, generator=generator).to(dtype)
    v = torch.randn(shape, generator=generator).to(dtype)
    queries = [n for n, _ in work]
    heads = _KV_HEADS * _GROUP
    q = torch.randn(sum(queries), heads, _HEAD_DIM, generator=generator).to(dtype)
    meta = AttentionMetadata(
        torch.tensor([0, *queries]).cumsum(0).int(),
        torch.tensor([context for _, context in work], dtype=torch.int32),
        tables,
        max(queries),
    )
    return q, k, v, meta


def _median_ms(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:]), min(times[2:])


def _read_gb_per_s(repeats: int) -> float:
    big = torch.ones(1 << 26)
    return big.numel() * 4 / 1e6 / _median_ms(big.sum, repeats)[1]


def _matmul_gflops(repeats: int) -> float:
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / 1e6 / _median_ms(lambda: a @ a, repeats)[1]


def _case(work: list[tuple[int, int]], dtype: torch.dtype, args: argparse.Namespace) -> dict:
    q, k, v, meta = _inputs(work, dtype)
    scale = _HEAD_DIM**-0.5
    median, best = _median_ms(
        lambda: paged_attention(q, k, v, meta, scale=scale, impl=args.impl), args.repeats
    )
    # Each query sees its own prefix: two products of 2 * D operations per head and position.
    seen = sum(n * (c - n) + n * (n + 1) // 2 for n, c in work)
    flops = 4 * _HEAD_DIM * _KV_HEADS * _GROUP * seen
    kv_bytes = sum(c for _, c in work) * _KV_HEADS * _HEAD_DIM * 2 * k.element_size()
    return {
        "median_ms": round(median, 3),
        "best_ms": round(best, 3),
        "gflops": round(flops / median / 1e6, 1),
        "kv_gb_per_s": round(kv_bytes / median / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--impl", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = {"decode": _decode_lengths(), **_PREFILLS}
    machine = {
        "read_gb_per_s": round(_read_gb_per_s(args.repeats), 1),
        "matmul_gflops": round(_matmul_gflops(args.repeats), 1),
    }
    results = {}
    print(f"{'case':16} {'dtype':9} {'median ms':>10} {'best ms':>9} {'GFLOP/s':>8} {'GB/s':>6}")
    for name, work in cases.items():
        for dtype in (torch.bfloat16, torch.float32):
            result = _case(work, dtype, args)
            label = str(dtype).removeprefix("torch.")
            results[f"{name}_{label}"] = result
            print(
                f"{name:16} {label:9} {result['median_ms']:10.3f} {result['best_ms']:9.3f} "
                f"{result['gflops']:8.1f} {result['kv_gb_per_s']:6.1f}"
            )
    document = {
        "bench": "paged_attention",
        "impl": args.impl,
        "threads": args.threads,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        **machine,
        "results": results,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
