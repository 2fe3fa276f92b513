"""Speed of packed linears on the device: cuBLAS, at the sizes of Llama 3.1 8B and Qwen3 0.6B.

Few rows are bound by reading the weights, many by multiplying: with 2,048 rows and more 90 % of the
rate measured for a large square product are wanted, of the layers' products; the head is measured
at the few rows that sample.

Run: python tests/bench/bench_linear.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.linear import pack_linear

# Name: [N, K].
_LAYERS = {
    "llama_8b qkv": (6144, 4096),
    "llama_8b gate_up": (28_672, 4096),
    "llama_8b down": (4096, 14_336),
    "qwen3_0.6b qkv": (4096, 1024),
    "qwen3_0.6b gate_up": (6144, 1024),
    "qwen3_0.6b down": (1024, 3072),
}
_HEADS = {"llama_8b head": (128_256, 4096), "qwen3_0.6b head": (151_936, 1024)}
_ROWS = (1, 16, 64, 256, 1024, 2048, 8192)
_HEAD_ROWS = (1, 16, 64, 256, 1024)


def cases(device: str, tiny: bool) -> Iterator[Case]:
    for name, (N, K) in (_LAYERS | _HEADS).items():
        shape = (N // 64, K // 64) if tiny else (N, K)
        generator = torch.Generator(device).manual_seed(N)
        weight = torch.randn(shape, device=device, generator=generator).bfloat16()
        linear = pack_linear(weight, None, impl="triton")
        rows = _HEAD_ROWS if name in _HEADS else _ROWS
        for T in (3,) if tiny else rows:
            x = torch.randn(T, shape[1], device=device, generator=generator).bfloat16()
            yield Case(
                f"{name} T={T}",
                lambda linear=linear, x=x: linear(x),
                # Up to 64 rows the weights take longer to read than to multiply.
                num_bytes=weight.nbytes if T <= 64 else 0,
                num_flops=2 * T * weight.numel(),
                target=0.9 if T >= 2048 else None,
            )


if __name__ == "__main__":
    main(cases, __doc__)
