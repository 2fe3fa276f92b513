"""What the compiled implementations are built with: vectors, functions, threads.

Numba's own automatic vectorisation decides by pointer overlap and loop length which instructions a
row gets, and needs relaxed arithmetic to vectorise a sum. Both would let a row's bits depend on
its neighbours. So kernels here say each operation themselves, on vectors of 16 float32 (`lanes`),
and are compiled without relaxed arithmetic: the order of every sum stands in the source, on every
machine.
"""
