"""Paged attention against float64, and against itself: a race shows as a difference."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from attention_bound import bound_of
from attention_oracle import Case
from device_place import DEVICE, IS_DRY_RUN, on_device, pool_on_device, sizes

from first_contact.place import HALF, within
from first_contact.recorder import Check
from thothy_kernels.paged_attention import paged_attention

_REPETITIONS = sizes([5], [1])[0]


@dataclass(frozen=True, slots=True)
class _Case:
    heads: tuple[int, int, int]  # H, K, D
    lens: list[tuple[int, int]]  # context, queries
    shared: tuple[tuple[int, int, int, int], ...] = ()  # see Case
    window: int | None = None
    softcap: float = 0.0
    dtype: torch.dtype = HALF


_LLAMA = (32, 8, 128)
_CASES = {
    "decode": _Case(_LLAMA, [(1, 1), (31, 1), (64, 1), (65, 1), (1000, 1), (4000, 1)]),
    "groups": _Case(
        _LLAMA, [(970 + 13 * i, 1) for i in range(18)], ((0, 18, 0, 17), (1, 4, 17, 26))
    ),
    "prefill": _Case(_LLAMA, [(5, 5), (300, 300), (700, 64)]),
    "window-cap": _Case(
        (8, 4, 256), [(1, 1), (300, 1), (257, 70), (520, 3)], window=200, softcap=30.0
    ),
    "float32-groups": _Case(
        (16, 8, 128), [(300 + i, 1) for i in range(33)], ((0, 33, 0, 8),), dtype=torch.float32
    ),
}
_TINY = {
    "decode": _Case((4, 2, 16), [(40, 1), (1, 1)]),
    "groups": _Case((4, 2, 16), [(70, 1), (75, 1), (66, 1)], ((0, 3, 0, 2),)),
    "prefill": _Case((4, 2, 16), [(40, 9), (5, 5)]),
    "window-cap": _Case((4, 2, 16), [(50, 1), (20, 3)], window=12, softcap=30.0),
}


def checks() -> Iterator[Check]:
    for name, case in (_TINY if IS_DRY_RUN else _CASES).items():
        yield name, partial(_attend, case)


def _attend(case: _Case) -> str:
    step = Case(
        case.lens,
        shape=case.heads,
        block_size=32,
        window=case.window,
        shared=case.shared,
        dtype=case.dtype,
        stride=3,
    )
    k, v = pool_on_device(step.k), pool_on_device(step.v)
    outs = []
    for _ in range(_REPETITIONS):
        meta = on_device(step.meta(grouped=bool(case.shared)))
        options = {"scale": step.scale, "softcap": case.softcap, "impl": "triton"}
        outs.append(paged_attention(step.q.to(DEVICE), k, v, meta, **options).cpu())
    exact = step.oracle(case.softcap)
    seen = within(outs[0], exact, bound_of(step, exact, case.softcap))
    assert all(torch.equal(out, outs[0]) for out in outs), "results differ from call to call"
    return seen
