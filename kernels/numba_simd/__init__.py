"""Building blocks of the Numba kernels: SIMD vectors, memory access, compilation, threads.

Numba's own automatic vectorisation decides by pointer overlap and loop length which instructions a
row gets, and needs relaxed arithmetic to vectorise a sum. Both would let a row's bits depend on
its neighbours. Kernels therefore spell out each operation on vectors of 16 float32 (`vec16`) and
are compiled without relaxed arithmetic: the source fixes the order of every sum on every machine.
"""

__all__ = [
    "amx",
    "arguments",
    "bf16_pairs",
    "code_cache",
    "cpu_features",
    "exp",
    "functions",
    "linking",
    "microkernels",
    "raw_memory",
    "thread_pool",
    "vec16",
]
