"""Operations on tensors, one folder each: contract, reference, implementations.

A folder's `__init__.py` is the contract: it checks shapes and dtypes and hands over to the
implementation that the caller names. `reference.py` is the definition in plain torch;
`cpu_impl.py` is compiled (Numba, or oneDNN through torch) and never imports the reference.
Nothing falls back: an implementation that does not exist is refused by name.

Shape letters in all folders: T tokens in the step, S sequences, B blocks, P block_size,
H query heads, K kv heads, D head dim, V vocab, M max blocks per sequence, R rows that sample.
"""
