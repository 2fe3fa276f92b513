"""Speed of rms_norm and add_rms_norm on the device, for hidden sizes of Qwen3 0.6B and Llama 8B.

Bytes are those that must move: each input read once, each result written once, in bfloat16. Rows
of a step of 256 tokens fit in the cache and are no measure of the memory: they have no target.
Torch's own norm stands beside, after its sum, as a comparison.

Run: python tests/bench/bench_rms_norm.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.rms_norm import add_rms_norm, rms_norm

_SIZES = (1024, 4096)
_TOKENS = (256, 2048, 8192)
_EPS = 1e-6


def cases(device: str, tiny: bool) -> Iterator[Case]:
    for N in _SIZES:
        for T in (5,) if tiny else _TOKENS:
            generator = torch.Generator(device).manual_seed(T)
            x, delta = torch.randn(2, T, N, device=device, generator=generator).bfloat16()
            weight = torch.randn(N, device=device, generator=generator).bfloat16()
            target = 0.85 if T >= 2048 else None
            yield Case(
                f"rms_norm T={T} N={N}",
                lambda x=x, w=weight: rms_norm(x, w, _EPS, impl="triton"),
                num_bytes=2 * x.nbytes,
                target=target,
            )
            yield Case(
                f"torch rms_norm T={T} N={N}",
                lambda x=x, w=weight: torch.nn.functional.rms_norm(x, w.shape, w, _EPS),
                num_bytes=2 * x.nbytes,
            )
            yield Case(
                f"add_rms_norm T={T} N={N}",
                lambda x=x, d=delta, w=weight: add_rms_norm(x, d, w, _EPS, impl="triton"),
                num_bytes=4 * x.nbytes,
                target=target,
            )
            yield Case(
                f"torch add and rms_norm T={T} N={N}",
                lambda x=x, d=delta, w=weight: _added(x, d, w),
                num_bytes=4 * x.nbytes,
            )


def _added(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + delta
    return total, torch.nn.functional.rms_norm(total, weight.shape, weight, _EPS)


if __name__ == "__main__":
    main(cases, __doc__)
