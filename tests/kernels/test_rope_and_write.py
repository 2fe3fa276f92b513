"""rope_and_write_kv is the composition of its parts, and in Triton within rounding of it."""

import pytest
import torch
from rounding_oracle import norm_error

from thothy_kernels.kv_write import write_kv
from thothy_kernels.launch import is_interpreted
from thothy_kernels.rms_norm import rms_norm
from thothy_kernels.rms_norm.triton_impl import rms_norm as norm_in_triton
from thothy_kernels.rope import apply_rope
from thothy_kernels.rope_and_write import rope_and_write_kv, triton_impl

IMPLS = ("reference", "cpu", "triton")
HOST_IMPLS = ("reference", "cpu")
# H, K, D: grouped, one kv head, as many as query heads, sizes that are no power of two.
HEADS = [(4, 2, 16), (3, 1, 8), (5, 5, 20), (7, 1, 80), (2, 2, 256), (14, 2, 64), (17, 9, 128)]
NORMS = ["none", "weight", "offset"]
# Triton's interpreter truncates to bfloat16 where a device rounds: float16 stands in for it there.
TRITON_DTYPES = [torch.float32, torch.float16]
TRITON_DTYPES += [] if is_interpreted() else [torch.bfloat16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS, L, P, B = 1e-6, 100, 4, 8


class _Arguments:
    """Arguments of the operation on the CPU. Caches are the second of two layers, full of NaN."""

    def __init__(self, heads, norm="none", dtype=torch.float32, T=9):
        self.H, self.K, self.D = heads
        generator = torch.Generator().manual_seed(self.D)
        rows = torch.randn(T, (self.H + 2 * self.K) * self.D, generator=generator)
        self.qkv = (rows * 3).to(dtype)
        self.q_norm = self.k_norm = None
        if norm != "none":
            weights = torch.randn(2, self.D, generator=generator).to(dtype)
            self.q_norm, self.k_norm = weights
        self.offset = 1.0 if norm == "offset" else 0.0
        half = self.D // 2
        angles = torch.arange(L)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
        self.positions = torch.randint(0, L, (T,), generator=generator)
        self.slots = torch.randperm(B * P, generator=generator)[:T]
        self.slots[2::3] = -1
        shape = (B, 2, self.K, P, self.D)
        self.pools = [torch.full(shape, torch.nan, dtype=dtype) for _ in range(2)]

    @property
    def caches(self):
        return [pool[:, 1] for pool in self.pools]

    def call(self, impl):
        """q; pools are written where they are. Where impl is triton, on the device."""
        device = DEVICE if impl == "triton" else "cpu"
        pools = [pool.to(device) for pool in self.pools]
        tensors = (self.qkv, self.q_norm, self.k_norm, self.positions, self.cos_sin)
        tensors = [None if t is None else t.to(device) for t in tensors]
        tensors += [*(pool[:, 1] for pool in pools), self.slots.to(device)]
        if self.qkv.dtype == torch.float16:  # no contract accepts it
            q = triton_impl.rope_and_write_kv(*tensors, self.H, EPS, self.offset)
        else:
            named = {"num_heads": self.H, "eps": EPS, "weight_offset": self.offset}
            q = rope_and_write_kv(*tensors, **named, impl=impl)
        self.pools = [pool.cpu() for pool in pools]
        return q.cpu()

    def split(self):
        """q, k and v as [T, heads, D]."""
        return self.qkv.unflatten(1, (-1, self.D)).split((self.H, self.K, self.K), dim=1)

    def stored(self, cache):
        """The tokens [T, K, D] of a cache that have a slot."""
        by_slot = cache.transpose(1, 2).flatten(0, 1)
        return by_slot[self.slots[self.slots >= 0]]

    def assert_nothing_else_was_written(self):
        written = self.slots[self.slots >= 0].tolist()
        free = sorted(set(range(B * P)) - set(written))
        for pool, cache in zip(self.pools, self.caches, strict=True):
            assert pool[:, 0].isnan().all()
            assert cache.transpose(1, 2).flatten(0, 1)[free].isnan().all()


def _same(found, wanted):
    return torch.equal(found.nan_to_num(9.0), wanted.nan_to_num(9.0))


def _by_parts(args, impl):
    q, k, v = args.split()
    if args.q_norm is not None:
        q = rms_norm(q, args.q_norm, EPS, weight_offset=args.offset, impl=impl)
        k = rms_norm(k, args.k_norm, EPS, weight_offset=args.offset, impl=impl)
    q, k = apply_rope(q, k, args.positions, args.cos_sin, impl=impl)
    write_kv(k, v, *args.caches, args.slots, impl=impl)
    return q


@pytest.mark.parametrize("impl", HOST_IMPLS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS)
def test_bits_are_those_of_the_parts(heads, dtype, norm, impl):
    args, parts = (_Arguments(heads, norm, dtype) for _ in range(2))
    q = args.call(impl)
    assert q.is_contiguous()
    assert torch.equal(q, _by_parts(parts, impl))
    assert all(map(_same, args.pools, parts.pools))


def _exact(x, weight, args):
    """x [T, heads, D] after norm and rotation, and what rounding to float32 and to the dtype may
    add to it, both in float64."""
    x, half = x.double(), args.D // 2
    float32, own = torch.finfo(torch.float32), torch.finfo(args.qkv.dtype)
    narrow = 0.0 if own.dtype == "float32" else own.eps
    # Below its range float16 has even steps, of which a rounding lacks a half.
    step = 0.0 if narrow == 0.0 else own.smallest_normal * own.eps / 2
    error = torch.zeros_like(x)
    if weight is not None:
        factor = weight.double() + args.offset
        x, rows = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * factor, x
        # The dtype rounds before the weight, unless that has an offset, and after it.
        share = (1 + norm_error(rows)) * (1 + narrow / 2) ** (1 if args.offset else 2) - 1
        error = x.abs() * share + step * (1 + factor.abs())
    table = args.cos_sin.double()[args.positions][:, None]
    cos, sin = table.chunk(2, dim=-1)
    (a, b), (da, db) = x.chunk(2, dim=-1), error.chunk(2, dim=-1)
    exact = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    cos, sin = cos.abs(), sin.abs()
    error = torch.cat((da * cos + db * sin, db * cos + da * sin), dim=-1)
    # Three float32 roundings of at most the point's distance from 0, one to the dtype.
    distance = x.unflatten(-1, (2, half)).norm(dim=-2).repeat(1, 1, 2)
    error = error + distance * 2 * float32.eps
    return exact, error + (exact.abs() + error) * narrow / 2 + step


@pytest.mark.few(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", TRITON_DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_triton_is_within_rounding_of_the_definition(heads, dtype, norm):
    args = _Arguments(heads, norm, dtype)
    q, k, v = args.split()
    found = args.call("triton")
    assert found.dtype == dtype
    assert found.is_contiguous()
    exact, bound = _exact(q, args.q_norm, args)
    assert ((found - exact).abs() <= bound).all()
    exact, bound = (t[args.slots >= 0] for t in _exact(k, args.k_norm, args))
    assert ((args.stored(args.caches[0]) - exact).abs() <= bound).all()
    assert torch.equal(args.stored(args.caches[1]), v[args.slots >= 0])
    args.assert_nothing_else_was_written()


@pytest.mark.few(2)
@pytest.mark.parametrize("norm", ["weight", "offset"])
@pytest.mark.parametrize("dtype", TRITON_DTYPES)
@pytest.mark.parametrize("heads", [(4, 2, 16), (14, 2, 64), (17, 9, 128)])
def test_quarter_turns_in_triton_move_the_bits_of_its_rms_norm(heads, dtype, norm):
    """Whole numbers have exact sums of squares in any order, and such turns round nothing: what is
    left are the norm's own roundings, each where rms_norm has it."""
    args = _Arguments(heads, norm, dtype)
    args.qkv = args.qkv.round()
    quarters = torch.arange(L) % 4
    cos, sin = (torch.tensor(v)[quarters] for v in ([1.0, 0, -1, 0], [0.0, 1, 0, -1]))
    args.cos_sin = torch.stack((cos, sin), 1).repeat_interleave(args.D // 2, 1)
    found = args.call("triton")
    q, k, _ = args.split()
    norms = (args.q_norm, args.k_norm)
    q, k = (
        norm_in_triton(x.contiguous().to(DEVICE), weight.to(DEVICE), EPS, args.offset).cpu()
        for x, weight in zip((q, k), norms, strict=True)
    )
    turned = []
    for x in (q, k):
        a, b = x.chunk(2, dim=-1)
        turns = [(a, b), (-b, a), (-a, -b), (b, -a)]
        by_turn = torch.stack([torch.cat(turn, dim=-1) for turn in turns])
        turned.append(by_turn[args.positions % 4, torch.arange(len(x))])
    assert torch.equal(found, turned[0])
    assert torch.equal(args.stored(args.caches[0]), turned[1][args.slots >= 0])


@pytest.mark.few(3)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm", NORMS)
def test_row_alone_equals_row_in_batch(norm, impl):
    whole = _Arguments((14, 2, 64), norm, T=24)
    q = whole.call(impl)
    for rows in (slice(0, 1), slice(5, 12), slice(23, 24)):
        part = _Arguments((14, 2, 64), norm, T=24)
        for name in ("qkv", "positions", "slots"):
            setattr(part, name, getattr(part, name)[rows])
        assert torch.equal(part.call(impl), q[rows])
        stored = part.slots[part.slots >= 0]
        for found, wanted in zip(part.caches, whole.caches, strict=True):
            blocks = stored // P, slice(None), stored % P
            assert torch.equal(found[blocks], wanted[blocks])


@pytest.mark.few(3)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm", NORMS)
def test_rows_may_lie_apart_and_are_left_as_they_were(norm, impl):
    args, wanted = (_Arguments((5, 5, 20), norm) for _ in range(2))
    wide = torch.full((9, 15 * 20 + 33), torch.nan)
    wide[:, 7 : 7 + 300] = args.qkv
    before = wide.clone()
    args.qkv = wide[:, 7 : 7 + 300]
    assert torch.equal(args.call(impl), wanted.call(impl))
    assert all(map(_same, args.pools, wanted.pools))
    assert _same(wide, before)
    turned = _Arguments((5, 5, 20), norm)
    turned.qkv = turned.qkv.t().contiguous().t()
    turned.call(impl)
    assert all(map(_same, turned.pools, wanted.pools))


@pytest.mark.parametrize("impl", IMPLS)
def test_padding_is_not_stored_even_where_it_is_nan_and_no_token_is_no_work(impl):
    args = _Arguments((4, 2, 16), "weight")
    args.qkv[args.slots < 0] = torch.nan
    q = args.call(impl)
    assert q[args.slots >= 0].isfinite().all()
    assert all(args.stored(cache).isfinite().all() for cache in args.caches)
    args.assert_nothing_else_was_written()
    empty = _Arguments((4, 2, 16), "weight", T=0)
    assert empty.call(impl).shape == (0, 4, 16)
    empty.assert_nothing_else_was_written()


OUTSIDE = [("slots", -2), ("slots", B * P), ("slots", 2**40), ("positions", -1), ("positions", L)]
OUTSIDE += [("positions", -(2**62)), ("slots", -(2**62)), ("positions", 2**40)]


@pytest.mark.parametrize("impl", HOST_IMPLS)
@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_what_lies_outside_is_refused_before_anything_is_written(name, value, impl):
    args = _Arguments((4, 2, 16))
    getattr(args, name)[7] = value
    with pytest.raises(ValueError, match="outside -1 .. 31|must lie in 0 .. 99"):
        args.call(impl)
    assert all(pool.isnan().all() for pool in args.pools)


@pytest.mark.few(1)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_in_triton_such_a_token_is_stored_nowhere_and_its_query_is_nan(name, value, norm):
    args, wanted = (_Arguments((4, 2, 16), norm) for _ in range(2))
    getattr(args, name)[7] = value
    wanted.slots[7] = -1
    q, expected = args.call("triton"), wanted.call("triton")
    assert q[7].isnan().all()
    expected[7] = torch.nan
    assert _same(q, expected)
    assert all(map(_same, args.pools, wanted.pools))


def test_bad_arguments_are_refused_by_name():
    args = _Arguments((4, 2, 16), "weight")
    good = {
        "qkv": args.qkv,
        "q_norm": args.q_norm,
        "k_norm": args.k_norm,
        "positions": args.positions,
        "cos_sin": args.cos_sin,
        "k_cache": args.caches[0],
        "v_cache": args.caches[1],
        "slot_mapping": args.slots,
        "num_heads": 4,
        "eps": EPS,
        "impl": "cpu",
    }
    halves = [cache[:, :, ::2] for cache in args.caches]
    for message, bad in (
        ("qkv is torch.float64", {"qkv": args.qkv.double()}),
        ("qkv is", {"qkv": args.qkv[:, :-1]}),
        ("qkv is", {"num_heads": 5}),
        ("q_norm is", {"q_norm": args.q_norm[:8]}),
        ("k_norm is torch.bfloat16", {"k_norm": args.k_norm.bfloat16()}),
        ("given together", {"k_norm": None}),
        ("positions is torch.int32", {"positions": args.positions.int()}),
        ("slot_mapping is", {"slot_mapping": args.slots[:3]}),
        ("cos_sin is", {"cos_sin": args.cos_sin[:, :8]}),
        ("k_cache is torch.bfloat16", {"k_cache": args.caches[0].bfloat16()}),
        ("v_cache is", {"v_cache": args.caches[1][:2]}),
        ("contiguous", {"k_cache": halves[0], "v_cache": halves[1]}),
        ("there are reference, cpu, triton", {"impl": "gpu"}),
    ):
        with pytest.raises(ValueError, match=message):
            rope_and_write_kv(**{**good, **bad})
