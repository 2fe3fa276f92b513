"""Speed of packed linears on the CPU: int8 beside bfloat16, at the sizes of Qwen3-0.6B.

    python tests/bench/bench_linear_cpu.py [--rows 1,8,16,32] [--out FILE]

Few rows are bound by reading the weights, of which int8 has half the bytes; what it does around the
product, rows to bytes and scales back, counts. Each weight stands there several times, in turn, so
that no cache below the last holds it. The two take turns; a time is the least of several goes, and
the ratio that of the least. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from provenance import short_commit

from thothy_batch.engine.cost.measurement_cache import device_name
from thothy_kernels.linear import pack_linear
from thothy_kernels.linear_int8 import pack_linear_int8

# Name: [N, K].
_SHAPES = {
    "gate_up": (6144, 1024),
    "down": (1024, 3072),
    "qkv": (4096, 1024),
    "o": (1024, 2048),
    "head": (151_936, 1024),
}
_BYTES = 100 << 20  # of all copies of a weight in bfloat16, but for the head
_GO_S = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,4,8,16,32,64", help="rows of x, separated by commas")
    parser.add_argument("--goes", type=int, default=12, help="goes of each, of 5 ms at least")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    options = parser.parse_args()
    document: dict[str, object] = {
        "benchmark": "linear_cpu",
        "commit": short_commit(),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    rows = [int(num) for num in options.rows.split(",")]
    document["cases"] = list(_cases(rows, options.goes))
    if options.out is not None:
        options.out.write_text(json.dumps(document) + "\n")
    print(json.dumps(document))


@torch.inference_mode()
def _cases(all_rows: list[int], num_goes: int) -> Iterator[dict[str, object]]:
    for name, (N, K) in _SHAPES.items():
        weights = [torch.randn(N, K).bfloat16() for _ in range(max(1, _BYTES // (2 * N * K)))]
        plain = cycle([pack_linear(weight, None, impl="cpu") for weight in weights])
        # As the decoder has the head: its logits come in float32.
        out = torch.float32 if name == "head" else torch.bfloat16
        packed = cycle([pack_linear_int8(w, None, impl="cpu", out_dtype=out) for w in weights])
        for T in all_rows:
            x = torch.randn(T, K).bfloat16()
            ways = (
                lambda plain=plain, x=x, out=out: next(plain)(x).to(out),
                lambda packed=packed, x=x: next(packed)(x),
            )
            times = _times(ways, num_goes)
            least = [min(of_way) for of_way in times]
            median = [sorted(of_way)[len(of_way) // 2] for of_way in times]
            yield {
                **{"case": f"{name} T={T}", "N": N, "K": K, "T": T},
                **{"bfloat16_us": _us(least[0]), "int8_us": _us(least[1])},
                **{"bfloat16_median_us": _us(median[0]), "int8_median_us": _us(median[1])},
                "ratio": round(least[0] / least[1], 2),
                "ratio_of_medians": round(median[0] / median[1], 2),
            }
            print(
                f"{name} [{N}, {K}] T={T}: bfloat16 {_us(least[0])} us, int8 {_us(least[1])} us, "
                f"{least[0] / least[1]:.2f} times as fast",
                flush=True,
            )


def _times(ways: tuple[Callable[[], object], ...], num_goes: int) -> list[list[float]]:
    """Seconds of a call, by way and go. Something else may have a core for a while: the ways take
    turns, and each go is short."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    for _ in range(num_goes):
        for way, of_way in zip(ways, times, strict=True):
            began, calls = time.perf_counter(), 0
            while time.perf_counter() - began < _GO_S:
                way()
                calls += 1
            of_way.append((time.perf_counter() - began) / calls)
    return times


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)


if __name__ == "__main__":
    main()
