"""Tensor operations of the engine, one package each: contract, reference, implementations.

A package's `__init__.py` is the contract: it checks shapes and dtypes and calls the implementation
that the caller names. `reference.py` is the definition in plain torch. `cpu_impl` (Numba, or oneDNN
through torch), `triton_impl` and `flex_impl` are modules or packages that import neither the
reference nor each other. Nothing falls back: an implementation that does not exist is refused by
name.

Shape letters in all packages: T tokens in the step, S sequences, B blocks, P block_size,
H query heads, K kv heads, D head dim, V vocab, M max blocks per sequence, R rows that are sampled.
"""

__all__ = [
    "block_copy",
    "compilation",
    "contract",
    "gated_activation",
    "invariance",
    "kv_write",
    "launch",
    "linear",
    "linear_int8",
    "numba_simd",
    "paged_attention",
    "rms_norm",
    "rope",
    "rope_and_write",
    "sample",
    "step_state",
    "transfer",
    "tuning",
]
