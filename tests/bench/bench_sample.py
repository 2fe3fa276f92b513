"""Speed of sampling on the device: rows of Qwen's vocabulary, for each way to draw.

Bytes are those of one pass over the logits: greedy and temperature alone read them once, and top-k
and top-p have little more to read, unless the logits have no peak. The logits are normal with a
deviation of 3: the nucleus of 0.9 has about 1,000 tokens at temperature 0.8, a hard case; models
are more certain. Torch's argmax and a top-p by sorting stand beside as comparisons.

Run: python tests/bench/bench_sample.py
"""

from collections.abc import Iterator

import torch
from on_device import Case, main

from thothy_kernels.sample import SamplingTensors, sample

_VOCAB = 151_936
_ROWS = (16, 256, 1024)
# Name: temperature, top_k, top_p, target. One pass at 80 %, three passes where filters search.
_WAYS = {
    "greedy": (0.0, 0, 1.0, 0.8),
    "temperature": (0.8, 0, 1.0, 0.8),
    "top_k": (0.8, 50, 1.0, 0.8 / 3),
    "top_p": (0.8, 0, 0.9, 0.8 / 3),
    "top_k_top_p": (0.8, 50, 0.9, 0.8 / 3),
}


def cases(device: str, tiny: bool) -> Iterator[Case]:
    V = 1000 if tiny else _VOCAB
    for R in (2,) if tiny else _ROWS:
        generator = torch.Generator(device).manual_seed(R)
        logits = 3.0 * torch.randn(R, V, device=device, generator=generator)
        for name, (temperature, top_k, top_p, target) in _WAYS.items():
            params = SamplingTensors(
                torch.full((R,), temperature, device=device),
                torch.full((R,), top_k, dtype=torch.int32, device=device),
                torch.full((R,), top_p, device=device),
                torch.arange(R, device=device),
                torch.arange(R, device=device),
            )
            yield Case(
                f"{name} R={R}",
                lambda logits=logits, params=params: sample(logits, params, impl="triton"),
                num_bytes=logits.nbytes,
                target=target,
            )
        yield Case(f"torch argmax R={R}", lambda x=logits: x.argmax(1), num_bytes=logits.nbytes)
        yield Case(f"torch top_p R={R}", lambda x=logits: _sorted_top_p(x), num_bytes=logits.nbytes)


def _sorted_top_p(logits: torch.Tensor) -> torch.Tensor:
    """Top-p 0.9 at temperature 0.8 as torch alone would do it."""
    weights, ids = (logits / 0.8).softmax(1).sort(1, descending=True)
    weights = weights.masked_fill(weights.cumsum(1) - weights >= 0.9, 0.0)
    return ids.gather(1, weights.multinomial(1))[:, 0]


if __name__ == "__main__":
    main(cases, __doc__)
