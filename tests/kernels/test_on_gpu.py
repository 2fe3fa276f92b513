"""The reference implementations on a CUDA device agree with the CPU (they are plain torch).

Later Triton kernels are measured against these on the device; without a device all of it skips.
"""

from collections.abc import Callable

import pytest
import torch

from thothy_kernels.gated_activation import gated
from thothy_kernels.kv_write import write_kv
from thothy_kernels.linear import pack_linear
from thothy_kernels.paged_attention import AttentionMetadata, paged_attention
from thothy_kernels.rms_norm import rms_norm
from thothy_kernels.sample import SamplingTensors, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICES = ("cpu", "cuda")


def on_both(compute: Callable[[str], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    cpu, cuda = (compute(device) for device in DEVICES)
    return cpu, cuda.cpu()


def attention(device: str) -> torch.Tensor:
    """Two sequences, a decode row and a chunk, in blocks out of order; NaN where none may read."""
    generator = torch.Generator().manual_seed(1)
    k_cache = torch.full((6, 2, 16, 32), float("nan"))
    v_cache = k_cache.clone()
    slots = torch.tensor([4 * 16 + i for i in range(16)] + [16 + i for i in range(5)] + [48, 49])
    k, v = (torch.randn(23, 2, 32, generator=generator) for _ in range(2))
    moved = [t.to(device) for t in (k, v, k_cache, v_cache, slots)]
    write_kv(*moved, impl="reference")
    q = torch.randn(3, 4, 32, generator=generator).to(device)
    meta = AttentionMetadata(
        torch.tensor([0, 1, 3], dtype=torch.int32, device=device),
        torch.tensor([21, 2], dtype=torch.int32, device=device),
        torch.tensor([[4, 1], [3, -1]], dtype=torch.int32, device=device),
        2,
    )
    return paged_attention(q, moved[2], moved[3], meta, scale=32**-0.5, impl="reference")


def test_attention_over_blocks_agrees() -> None:
    cpu, cuda = on_both(attention)
    torch.testing.assert_close(cuda, cpu, rtol=1e-5, atol=1e-5)


def test_norm_activation_and_linear_agree() -> None:
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(3))

    def compute(device: str) -> torch.Tensor:
        normed = rms_norm(x.to(device), torch.ones(64, device=device), 1e-6, impl="reference")
        packed = pack_linear(weight.to(device), None, impl="reference")
        return gated(packed(normed), activation="silu", impl="reference")

    cpu, cuda = on_both(compute)
    torch.testing.assert_close(cuda, cpu, rtol=1e-4, atol=1e-4)


def test_the_same_seed_draws_the_same_token() -> None:
    logits = torch.randn(16, 500, generator=torch.Generator().manual_seed(4))

    def compute(device: str) -> torch.Tensor:
        rows = torch.arange(16)
        params = SamplingTensors(
            torch.full((16,), 0.7, device=device),
            torch.full((16,), 50, dtype=torch.int32, device=device),
            torch.full((16,), 0.9, device=device),
            (rows * 7919).to(device),
            rows.to(device),
        )
        return sample(logits.to(device), params, impl="reference")

    cpu, cuda = on_both(compute)
    assert cpu.tolist() == cuda.tolist()
