"""A pool of most of the device's memory: at its end all is as at its beginning, bit for bit."""

from collections.abc import Iterator

import torch
from attention_oracle import Case
from device_place import DEVICE, IS_DRY_RUN, on_device

from first_contact.place import HALF, seeded
from first_contact.recorder import Check
from thothy_kernels.block_copy import copy_blocks
from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.rope_and_write import rope_and_write_kv

_K, _P, _D = 8, 32, 128
_NUM_LAYERS, _LAYER = (2, 1) if IS_DRY_RUN else (32, 3)
_H = 32
# Of the free memory, for keys; as much for values.
_SHARE = 0.35
_LENS = [(40, 1), (9, 3)] if IS_DRY_RUN else [(300, 1), (70, 20), (2000, 1)]


def checks() -> Iterator[Check]:
    pools = Pools()
    yield "write", pools.write
    yield "attend", pools.attend
    yield "copy", pools.copy


class Pools:
    """Keys and values of all layers, [B * layers, K, P, D]; not initialised."""

    def __init__(self) -> None:
        block_bytes = _NUM_LAYERS * _K * _P * _D * HALF.itemsize
        free = 64 * block_bytes if IS_DRY_RUN else torch.cuda.mem_get_info()[0]
        self.num_blocks = int(free * _SHARE) // block_bytes
        shape = (self.num_blocks * _NUM_LAYERS, _K, _P, _D)
        self._k, self._v = (torch.empty(shape, dtype=HALF, device=DEVICE) for _ in range(2))

    def _layer(self) -> list[torch.Tensor]:
        return [pool[_LAYER::_NUM_LAYERS] for pool in (self._k, self._v)]

    def write(self) -> str:
        T = 5
        qkv = torch.randn(T, (_H + 2 * _K) * _D, generator=seeded()).to(HALF).to(DEVICE)
        angles = torch.rand(T, _D // 2, generator=seeded(1))
        table = torch.cat((angles.cos(), angles.sin()), 1).to(DEVICE)
        stored = []
        for block in (0, self.num_blocks - 1):
            slots = torch.arange(block * _P, block * _P + T, device=DEVICE)
            positions = torch.arange(T, device=DEVICE)
            arguments = (qkv, None, None, positions, table, *self._layer(), slots)
            rope_and_write_kv(*arguments, num_heads=_H, eps=1e-6, impl="triton")
            stored.append(torch.stack([cache[block, :, :T] for cache in self._layer()]))
        assert stored[0].abs().sum() > 0, "nothing was written"
        assert torch.equal(*stored), "what is written at the end differs"
        total = 2 * self._k.numel()
        return f"{total:,} elements of keys and values, {total * HALF.itemsize >> 30} GiB"

    def attend(self) -> None:
        case = Case(_LENS, shape=(_H, _K, _D), block_size=_P, dtype=HALF)
        outs = []
        for first in (0, self.num_blocks - len(case.k)):
            caches = self._layer()
            for cache, blocks in zip(caches, (case.k, case.v), strict=True):
                cache[first : first + len(blocks)] = blocks.to(DEVICE)
            meta = case.meta()
            meta.block_tables[meta.block_tables >= 0] += first
            q, options = case.q.to(DEVICE), {"scale": case.scale, "impl": "triton"}
            outs.append(paged_attention(q, *caches, on_device(meta), **options))
        assert outs[0].isfinite().all()
        assert torch.equal(*outs), "blocks at the end give other results"

    def copy(self) -> None:
        whole = (self.num_blocks, _NUM_LAYERS * _K, _P, _D)
        k, v = self._k.view(whole), self._v.view(whole)
        for number, pool in enumerate((k, v)):
            pool[-1].fill_(3.0 + number)
            pool[1].zero_()
        copy_blocks(k, v, [self.num_blocks - 1], [1], impl="triton")
        for number, pool in enumerate((k, v)):
            assert (pool[1] == 3.0 + number).all(), "the last block is copied wrongly"
