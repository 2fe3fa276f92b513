"""Compiles the CPU kernels that a model needs before it runs, on several cores.

`python -m thothy_kernels.compilation` compiles the kernels that it is told by name, one a line, and
says so: a second process, because Numba compiles one function at a time in each.
"""

import importlib
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch

from thothy_kernels.gated_activation import cpu_impl as gated_activation
from thothy_kernels.linear import cpu_impl as linear
from thothy_kernels.linear_int8 import cpu_impl as linear_int8
from thothy_kernels.numba_simd.functions import Compiled
from thothy_kernels.paged_attention import cpu_impl as paged_attention
from thothy_kernels.rms_norm import cpu_impl as rms_norm
from thothy_kernels.rope_and_write import cpu_impl as rope_and_write
from thothy_kernels.sample import cpu_impl as sample

# A process takes seconds to start, so it pays for several kernels only.
_LEAST_PER_PROCESS = 3
_MOST_PROCESSES = 4  # there are hardly more kernels than this that take long
_log = logging.getLogger(__name__)

Report = Callable[[int, int], None]  # kernels compiled, kernels to compile


@dataclass(frozen=True, slots=True)
class KernelNeeds:
    """The properties of a model that decide which kernels it needs."""

    dtype: torch.dtype
    head_dim: int
    block_size: int
    activation: str
    is_int8: bool = False
    has_bias: bool = False  # in any of its products

    def kernels(self) -> list[Compiled]:
        """The kernels of this processor, those that take longest to compile first."""
        products = (
            linear_int8.kernels(self.dtype, self.has_bias)
            if self.is_int8
            else linear.kernels(self.dtype)
        )
        return [
            *paged_attention.kernels(self.dtype, self.block_size, self.head_dim),
            *sample.kernels(),
            *rope_and_write.kernels(self.dtype),
            *products,
            *rms_norm.kernels(self.dtype),
            *gated_activation.kernels(self.dtype, self.activation),
        ]


def compile_kernels(
    kernels: Sequence[Compiled],
    *,
    report: Report = lambda num_done, num_all: None,
    num_processes: int = 1,
) -> int:
    """Make kernels ready to run, and return how many had to be compiled for it.

    `num_processes`: at most, this one included. `report` is called before each kernel that is
    compiled, and at the end. Those in the cache are only loaded.
    """
    missing = deque(kernel for kernel in kernels if not kernel.is_cached)
    num_missing = len(missing)
    if missing:
        with _helpers(missing, _useful_processes(missing, num_processes) - 1):
            while (kernel := _pop(missing)) is not None:
                report(num_missing - len(missing) - 1, num_missing)
                kernel.compile()
        report(num_missing, num_missing)
    for kernel in kernels:  # those that the other processes compiled are loaded
        kernel.compile()
    return num_missing


def _useful_processes(missing: Sequence[Compiled], num_processes: int) -> int:
    if not all(kernel.has_cache for kernel in missing):
        return 1  # nothing that another process compiles could come here
    return max(1, min(num_processes, _MOST_PROCESSES, len(missing) // _LEAST_PER_PROCESS))


@contextmanager
def _helpers(missing: "deque[Compiled]", number: int) -> Iterator[None]:
    """Within, other processes compile what they take from `missing`; at the end it has none. After
    an error or an interrupt they end at once."""
    helpers = []
    with ExitStack() as stack:
        for _ in range(number):
            try:
                helper = _start()
            except OSError as error:
                _log.warning("no second process compiles: %s", error)
                break
            helpers.append(helper)
            stack.callback(_end, helper)
            thread = threading.Thread(target=_serve, args=(helper, missing), daemon=True)
            thread.start()
            stack.callback(thread.join)
        try:
            yield
        except BaseException:
            missing.clear()
            for helper in helpers:
                helper.kill()  # its thread waits for an answer
            raise


def _start() -> "subprocess.Popen[str]":
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        # -P: a file in the present folder must not stand in for a module.
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it fails at fails here again; a Ctrl-C reaches it too
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _serve(helper: "subprocess.Popen[str]", missing: "deque[Compiled]") -> None:
    """Hand kernels to another process until none is missing. One that fails there is compiled by
    this process, which shows the error."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        while (kernel := _pop(missing)) is not None:
            print(kernel.name, file=helper.stdin, flush=True)
            if not helper.stdout.readline():
                return
    except OSError:
        return


def _end(helper: "subprocess.Popen[str]") -> None:
    helper.kill()
    # Waits for it, and closes both pipes; what it did not read cannot be written then either.
    with suppress(OSError), helper:
        pass


def _pop(missing: "deque[Compiled]") -> Compiled | None:
    try:
        return missing.popleft()
    except IndexError:
        return None


def _compile_by_name() -> None:
    """Compile the kernels that stdin names, each with a line of its own, and answer each.

    The end of stdin ends the process at once: the one that asked has ended.
    """
    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            names.put(line.strip())
        os._exit(0)

    threading.Thread(target=read, name="names", daemon=True).start()
    try:
        while True:
            module, _, function = names.get().partition(":")
            getattr(importlib.import_module(module), function).compile()
            print("compiled", flush=True)
    finally:
        os._exit(1)  # an orderly exit would wait for the thread, which reads


if __name__ == "__main__":
    _compile_by_name()
