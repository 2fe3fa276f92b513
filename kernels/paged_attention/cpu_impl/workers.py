"""Workers of attention, one for each form of `item_kernel`. See `arguments.Arguments`."""

from thothy_kernels.numba_simd.functions import worker
from thothy_kernels.paged_attention.cpu_impl.item_kernel import (
    AMX,
    BFLOAT16,
    DOT_PRODUCTS,
    FLOAT32,
    run_items,
)


@worker
def _run_float32(args):  # type: ignore[no-untyped-def]
    run_items(args, FLOAT32)


@worker
def _run_bfloat16(args):  # type: ignore[no-untyped-def]
    run_items(args, BFLOAT16)


@worker
def _run_dot_products(args):  # type: ignore[no-untyped-def]
    run_items(args, DOT_PRODUCTS)


@worker
def _run_amx(args):  # type: ignore[no-untyped-def]
    run_items(args, AMX)


# By form.
WORKERS = (_run_float32, _run_bfloat16, _run_dot_products, _run_amx)
