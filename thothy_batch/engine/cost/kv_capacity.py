"""Pool capacity gained where windowed layers keep no more than their window. Pure arithmetic."""

from collections.abc import Iterable
from dataclasses import dataclass

from thothy_batch.records import LayerGroup


@dataclass(frozen=True, slots=True)
class Capacity:
    """KV of one sequence at a context length, counted in tokens times layers, blocks not rounded.

    Layers are taken to have keys and values of one size.
    """

    context: int  # tokens
    uniform: int  # every layer keeps every token
    hybrid: int  # a layer with a window keeps the tokens of its window

    @property
    def gain(self) -> float:
        """Sequences of this length that a pool holds, against a uniform pool of its memory."""
        return self.uniform / self.hybrid


def capacity_table(groups: Iterable[LayerGroup], contexts: Iterable[int]) -> list[Capacity]:
    """One row per context length, each at least 1."""
    layers = [(len(group.layers), group.window) for group in groups]
    num_layers = sum(num for num, _ in layers)
    return [
        Capacity(
            context,
            num_layers * context,
            sum(num * min(context, window or context) for num, window in layers),
        )
        for context in contexts
    ]
