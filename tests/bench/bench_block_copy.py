"""Speed of copy_blocks on the device, for blocks of 32 tokens of Qwen3 0.6B and Llama 8B.

A block holds the keys, or the values, of all layers. Bytes are those read and those written.
Torch's copy by index, which is the reference, stands beside as a comparison.

Run: python tests/bench/bench_block_copy.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.block_copy import copy_blocks

# Name: layers * kv heads, D. Blocks of 1.8 and 2 MiB of bfloat16.
_MODELS = {"qwen3_0.6b": (28 * 8, 128), "llama_8b": (32 * 8, 128)}
_BLOCK_SIZE = 32
_PAIRS = (1, 16, 256)


def cases(device: str, tiny: bool) -> Iterator[Case]:
    for model, (heads, D) in _MODELS.items():
        for num_pairs in (2,) if tiny else _PAIRS:
            shape = (2 * num_pairs, 3 if tiny else heads, _BLOCK_SIZE, D)
            k, v = (torch.zeros(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
            src, dst = range(0, 2 * num_pairs, 2), range(1, 2 * num_pairs, 2)
            for impl in ("triton", "reference"):
                yield Case(
                    f"{'' if impl == 'triton' else 'torch '}{model} pairs={num_pairs}",
                    lambda k=k, v=v, src=src, dst=dst, impl=impl: copy_blocks(
                        k, v, src, dst, impl=impl
                    ),
                    num_bytes=2 * k.nbytes,
                    # A few blocks are in the cache, and the launch takes longer than they do.
                    target=0.8 if impl == "triton" and num_pairs == max(_PAIRS) else None,
                )


if __name__ == "__main__":
    main(cases, __doc__)
