"""Speed of rope_and_write_kv on the device, for the heads of Qwen3 0.6B and Llama 8B.

Bytes are those that must move in bfloat16: the projection read once, and as much written, to q and
to the caches. Tables, positions and slots are small beside them. The composition of the references,
which is plain torch, stands beside as a comparison; it waits for the device where it checks values.

Run: python tests/bench/bench_rope_and_write.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.rope_and_write import rope_and_write_kv

# Name: H, K, D, whether the heads have norms.
_MODELS = {"qwen3_0.6b": (16, 8, 128, True), "llama_8b": (32, 8, 128, False)}
_TOKENS = (256, 2048, 8192)
_BLOCK_SIZE, _MAX_LEN = 32, 4096


def cases(device: str, tiny: bool) -> Iterator[Case]:
    for model, (H, K, D, has_norm) in _MODELS.items():
        for T in (3,) if tiny else _TOKENS:
            tensors = _tensors(device, T, H, K, D, has_norm)
            for impl in ("triton", "reference"):
                yield Case(
                    f"{'' if impl == 'triton' else 'torch '}{model} T={T}",
                    lambda tensors=tensors, H=H, impl=impl: rope_and_write_kv(
                        *tensors, num_heads=H, eps=1e-6, impl=impl
                    ),
                    num_bytes=2 * T * (H + 2 * K) * D * 2,
                    # Fewer tokens fit in the cache and are no measure of the memory.
                    target=0.8 if impl == "triton" and T >= 2048 else None,
                )


def _tensors(
    device: str, T: int, H: int, K: int, D: int, has_norm: bool
) -> tuple[torch.Tensor | None, ...]:
    """The operation's tensors in their order; tokens go to slots all over the pool."""
    generator = torch.Generator(device).manual_seed(T)
    qkv = torch.randn(T, (H + 2 * K) * D, device=device, generator=generator).bfloat16()
    norms = torch.randn(2, D, device=device, generator=generator).bfloat16()
    angles = torch.rand(_MAX_LEN, D // 2, device=device, generator=generator) * 6.3
    positions = torch.randint(_MAX_LEN, (T,), device=device, generator=generator)
    num_blocks = -(-2 * T // _BLOCK_SIZE)
    caches = torch.zeros(
        2, num_blocks, K, _BLOCK_SIZE, D, dtype=torch.bfloat16, device=device
    ).unbind()
    slots = torch.randperm(num_blocks * _BLOCK_SIZE, device=device, generator=generator)[:T]
    q_norm, k_norm = norms if has_norm else (None, None)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    return qkv, q_norm, k_norm, positions, table, *caches, slots


if __name__ == "__main__":
    main(cases, __doc__)
