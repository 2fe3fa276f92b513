"""Interpreted launches whose programs run in a random order: a device promises none."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from triton.runtime.interpreter import InterpreterBuilder

_Index = tuple[int, int, int]


@contextmanager
def shuffled_programs(seed: int) -> Iterator[None]:
    """Within it each launch of Triton's interpreter has an order of its own.

    The interpreter still counts through the grid; each index stands for another one.
    """
    generator = random.Random(seed)
    set_dim, set_index = InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx
    instead: dict[_Index, _Index] = {}

    def shuffled_dim(builder: InterpreterBuilder, *sizes: int) -> None:
        set_dim(builder, *sizes)
        indices = list(product(*map(range, sizes)))
        instead.clear()
        instead.update(zip(indices, generator.sample(indices, len(indices)), strict=True))

    def shuffled_index(builder: InterpreterBuilder, *index: int) -> None:
        set_index(builder, *instead[index])

    InterpreterBuilder.set_grid_dim = shuffled_dim
    InterpreterBuilder.set_grid_idx = shuffled_index
    try:
        yield
    finally:
        InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx = set_dim, set_index
