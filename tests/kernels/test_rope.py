"""apply_rope against a rotation of points in the complex plane."""

import pytest
import torch

from thothy_kernels.rope import apply_rope

IMPLS = ("reference", "cpu")
HEADS = [(4, 2, 16), (3, 1, 8), (5, 5, 20), (7, 1, 80), (2, 2, 256)]


def _inputs(T, heads, dtype=torch.float32):
    H, K, D = heads
    generator = torch.Generator().manual_seed(D)
    q, k = (torch.randn(T, n, D, generator=generator).to(dtype) for n in (H, K))
    angles = torch.arange(100)[:, None] * 10000.0 ** (-torch.arange(D // 2) / (D // 2))
    positions = torch.randint(0, 100, (T,), generator=generator)
    return q, k, positions, torch.cat((angles.cos(), angles.sin()), dim=-1)


def _exact(x, positions, cos_sin):
    half = x.shape[-1] // 2
    x, table = x.double(), cos_sin.double()[positions][:, None]
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(
        table[..., :half], table[..., half:]
    )
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_points_are_rotated(heads, impl, dtype):
    q, k, positions, cos_sin = _inputs(9, heads, dtype)
    for x, y in zip((q, k), apply_rope(q, k, positions, cos_sin, impl=impl), strict=True):
        exact = _exact(x, positions, cos_sin)
        # Three float32 roundings of at most the point's distance from 0, one to the dtype.
        half = x.shape[-1] // 2
        distance = x.double().unflatten(-1, (2, half)).norm(dim=-2).repeat(1, 1, 2)
        bound = distance * 2 * torch.finfo(torch.float32).eps
        if dtype == torch.bfloat16:
            bound += (exact.abs() + bound) * torch.finfo(dtype).eps / 2
        assert y.dtype == dtype
        assert y.shape == x.shape
        assert ((y - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
def test_row_alone_equals_row_in_batch(heads, impl):
    q, k, positions, cos_sin = _inputs(300, heads)
    whole = apply_rope(q, k, positions, cos_sin, impl=impl)
    for rows in (slice(0, 1), slice(17, 40), slice(299, 300)):
        part = apply_rope(q[rows], k[rows], positions[rows], cos_sin, impl=impl)
        assert torch.equal(part[0], whole[0][rows])
        assert torch.equal(part[1], whole[1][rows])


@pytest.mark.parametrize("impl", IMPLS)
def test_inputs_may_be_views_and_are_left_as_they_were(impl):
    q, k, positions, cos_sin = _inputs(6, (4, 2, 16))
    merged = torch.cat((q, k, torch.full_like(k, torch.nan)), dim=1)
    before = merged.clone()
    out = apply_rope(merged[:, :4], merged[:, 4:6], positions, cos_sin, impl=impl)
    assert torch.equal(out[0], apply_rope(q, k, positions, cos_sin, impl=impl)[0])
    assert torch.equal(out[1], apply_rope(q, k, positions, cos_sin, impl=impl)[1])
    assert torch.equal(merged[:, :6], before[:, :6])
    empty = apply_rope(q[:0], k[:0], positions[:0], cos_sin, impl=impl)
    assert empty[0].shape == (0, 4, 16)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("position", [-1, 100])
def test_positions_outside_the_table_are_refused(impl, position):
    q, k, positions, cos_sin = _inputs(3, (4, 2, 16))
    positions[1] = position
    with pytest.raises(ValueError, match="positions must lie in 0 .. 99"):
        apply_rope(q, k, positions, cos_sin, impl=impl)


def test_bad_arguments_are_refused_by_name():
    q, k, positions, cos_sin = _inputs(3, (4, 2, 16))
    for message, bad in (
        ("q is torch.float16", (q.half(), k, positions, cos_sin, "cpu")),
        ("k is", (q, k[:2], positions, cos_sin, "cpu")),
        ("positions is torch.int32", (q, k, positions.int(), cos_sin, "cpu")),
        ("cos_sin is", (q, k, positions, cos_sin[:, :8], "cpu")),
        ("there are reference, cpu", (q, k, positions, cos_sin, "fast")),
    ):
        with pytest.raises(ValueError, match=message):
            apply_rope(*bad[:4], impl=bad[4])
