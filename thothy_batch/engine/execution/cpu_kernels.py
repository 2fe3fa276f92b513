"""Compiles the CPU kernels of a model before it is loaded, once per machine."""

from thothy_batch.engine.core.config import ops_impl
from thothy_batch.engine.hardware.cpu import num_cores
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.model.config import locate_supported, resolve_dtype
from thothy_batch.records import EngineSpec

# Of one core, measured on a server of 2023 with 2.5 GHz; the larger kernels take longer.
_SECONDS_PER_KERNEL = 2.5


def prepare_kernels(spec: EngineSpec, phase: OnPhase = ignore_phase) -> int:
    """Load the kernels that a model needs from the cache, or compile them with all cores.

    Returns how many were compiled. `phase` is told how far it is. `spec` is a result of
    `resolve_spec`. Raises ModelError.
    """
    if spec.device != "cpu" or ops_impl(spec.impl, spec.device) != "cpu":
        return 0
    # Late: with them come torch and Numba.
    import torch

    from thothy_kernels.compilation import KernelNeeds, compile_kernels

    _, config = locate_supported(spec.model, need_weights=False)
    needs = KernelNeeds(
        dtype=getattr(torch, resolve_dtype(config, spec.model, spec.device)),
        head_dim=config.head_dim,
        block_size=spec.block_size,
        activation=config.activation,
        is_int8=spec.model.quantization == "int8",
        has_bias=config.qkv_bias or config.o_bias or config.mlp_bias,
    )
    cores = num_cores()

    def report(num_done: int, num_all: int) -> None:
        seconds = _SECONDS_PER_KERNEL * num_all / min(cores, num_all)
        phase(
            f"compiling CPU kernels, once per machine, about {seconds:.0f} s: "
            f"{num_done} of {num_all}"
        )

    return compile_kernels(needs.kernels(), report=report, num_processes=cores)
