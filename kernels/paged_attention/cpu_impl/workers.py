"""Workers of attention, one for each combination of `forms`. See `arguments.Arguments`."""

import torch

from thothy_kernels.numba_simd import amx, cpu_features
from thothy_kernels.numba_simd.functions import Worker, worker
from thothy_kernels.paged_attention.cpu_impl import forms
from thothy_kernels.paged_attention.cpu_impl.arguments import scratch_of
from thothy_kernels.paged_attention.cpu_impl.item_kernel import run_items


@worker
def _float32(args):  # type: ignore[no-untyped-def]
    scratch = scratch_of(args)
    run_items(args, scratch, forms.load_float32, forms.span_of_float32, forms.write_float32)


@worker
def _bfloat16(args):  # type: ignore[no-untyped-def]
    scratch = scratch_of(args)
    run_items(args, scratch, forms.load_bfloat16, forms.span_of_bfloat16, forms.write_bfloat16)


@worker
def _dot_products(args):  # type: ignore[no-untyped-def]
    scratch = scratch_of(args)
    run_items(
        args,
        scratch,
        forms.load_for_dot_products,
        forms.span_with_dot_products,
        forms.write_bfloat16,
    )


@worker
def _amx(args):  # type: ignore[no-untyped-def]
    scratch = scratch_of(args)
    amx.configure(scratch.saved)
    run_items(args, scratch, forms.load_for_amx, forms.span_by_amx, forms.write_bfloat16)
    amx.restore(scratch.saved)


def worker_for(dtype: torch.dtype, block_size: int, head_dim: int) -> Worker:
    """The worker for a dtype and sizes on this processor. Its instructions for bfloat16 need whole
    pieces of 16 keys in a block."""
    if dtype == torch.float32:
        return _float32
    if block_size % 16 == 0:
        if cpu_features.HAS_AMX and head_dim % 32 == 0:
            return _amx
        if cpu_features.HAS_BF16_DOT and head_dim % 64 == 0:
            return _dot_products
    return _bfloat16
