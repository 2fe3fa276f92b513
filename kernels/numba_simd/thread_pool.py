"""Launches compiled workers on torch's own threads.

Torch's matrix products run on an OpenMP pool whose idle threads spin for milliseconds before they
sleep. A second pool would compete with them for the cores, so workers run on that pool, through
the entry point of its runtime (GOMP_parallel; LLVM's runtime has it too). Without such a runtime
(torch without OpenMP) plain Python threads run them.

A worker claims work by an atomic counter (`raw_memory.fetch_add`) until none is left, so the work
and its bits are the same on any number of threads.
"""

import ctypes
import struct
import threading
from functools import cache

import numpy as np
import torch

from thothy_kernels.numba_simd.functions import Worker

_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp_parallel() -> ctypes._CFuncPtr | None:
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


@cache
def _function(address: int) -> ctypes._CFuncPtr:
    return _WORKER(address)


def float_bits(value: float) -> int:
    """A float32 as an int64 argument; `raw_memory.float32_of_bits` is the inverse."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def launch(worker: Worker, args: np.ndarray, num_threads: int) -> None:
    """Call a worker with args, int64, on num_threads threads; wait for all."""
    data, address = args.ctypes.data, worker.address
    if num_threads <= 1:
        _function(address)(data)
        return
    parallel = _openmp_parallel()
    if parallel is not None:
        parallel(address, data, num_threads, 0)
        return
    helpers = [
        threading.Thread(target=_function(address), args=(data,)) for _ in range(num_threads - 1)
    ]
    for helper in helpers:
        helper.start()
    _function(address)(data)
    for helper in helpers:
        helper.join()


def num_threads_for(work: int, least: int) -> int:
    """Threads worth starting for `work` units: one per `least` units, at most torch's number."""
    return max(1, min(torch.get_num_threads(), work // least))
