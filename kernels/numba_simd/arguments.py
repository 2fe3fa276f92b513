"""Arguments of a worker: a NamedTuple of integers, passed as one int64 array.

The NamedTuple says once which arguments a worker takes, in which order, and what each one means.
A launcher fills it by keyword, so Python itself refuses a missing or an unknown name:

    class Arguments(NamedTuple):
        next_row: int  # counter shared by the threads
        T: int
        x: int  # address, float32 [T]

    ARG = indices_of(Arguments)
    thread_pool.launch(run_rows, pack(Arguments(next_row=0, T=T, x=x.data_ptr())), num_threads)

The worker reads `args[ARG.T]`: ARG is a global tuple of constants, which the compiler folds into
the load.
"""

from typing import NamedTuple, TypeVar

import numpy as np

_Arguments = TypeVar("_Arguments", bound=NamedTuple)


def indices_of(arguments: type[_Arguments]) -> _Arguments:
    """An instance of `arguments` whose fields are their own indices."""
    return arguments._make(range(len(arguments._fields)))


def pack(arguments: tuple[int, ...]) -> np.ndarray:
    """The argument array of one launch, int64 [number of fields]."""
    return np.array(arguments, dtype=np.int64)
