"""The same computation with several numbers of threads."""

from collections.abc import Callable

import torch


def on_threads(compute: Callable[[], torch.Tensor], *counts: int) -> list[torch.Tensor]:
    """Return the results with these numbers of torch's threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in counts:
            torch.set_num_threads(num_threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    return results
