"""Speed of gated on the device, for the feed-forward layers of Qwen3 0.6B and Llama 8B.

Bytes are those that must move in bfloat16: both halves read once, the result written once. Torch's
own activation, times the other half, stands beside as a comparison.

Run: python tests/bench/bench_gated_activation.py
"""

from collections.abc import Callable, Iterator

import torch
from on_device import Case, main

from thothy_kernels.gated_activation import gated

_SIZES = (3072, 14336)
_TOKENS = (256, 2048, 8192)
_TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu_tanh": lambda gate: torch.nn.functional.gelu(gate, approximate="tanh"),
}


def cases(device: str, tiny: bool) -> Iterator[Case]:
    for F in _SIZES:
        for T in (3,) if tiny else _TOKENS:
            generator = torch.Generator(device).manual_seed(T)
            gate_up = torch.randn(T, 2 * F, device=device, generator=generator).bfloat16()
            num_bytes = gate_up.nbytes * 3 // 2
            for name, activation in _TORCH.items():
                yield Case(
                    f"{name} T={T} F={F}",
                    lambda x=gate_up, name=name: gated(x, activation=name, impl="triton"),
                    num_bytes=num_bytes,
                    # Fewer rows fit in the cache and are no measure of the memory.
                    target=0.88 if T >= 2048 else None,
                )
                yield Case(
                    f"torch {name} T={T} F={F}",
                    lambda x=gate_up, act=activation: _by_torch(x, act),
                    num_bytes=num_bytes,
                )


def _by_torch(
    gate_up: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return activation(gate) * up


if __name__ == "__main__":
    main(cases, __doc__)
