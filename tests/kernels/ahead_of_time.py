"""Compiles every launch variant of the Triton kernels without a device.

It runs in a process of its own, because interpreted kernels cannot be compiled. It prints one JSON
line per kernel and target, with registers and spills from ptxas; with --out also one document.

Run: TRITON_INTERPRET=0 python tests/kernels/ahead_of_time.py [--out FILE]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from pkgutil import iter_modules

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns without

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

import thothy_kernels  # noqa: E402 - Triton reads its settings at import
from thothy_kernels.launch import Variant  # noqa: E402

CAPABILITIES = (80, 90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    records = []
    numbers = range(len(all_variants()) * len(CAPABILITIES))
    with get_context("fork").Pool(2) as pool:
        for record in pool.imap(compiled_at, numbers):
            records.append(record)
            print(json.dumps(record), flush=True)
    if out is not None:
        versions = {"triton": triton.__version__, "torch": torch.__version__}
        document = {"benchmark": "kernel-resources", "versions": versions, "kernels": records}
        out.write_text(json.dumps(document, indent=1) + "\n")


@cache
def all_variants() -> list[tuple[str, Variant]]:
    """(operation, variant) of each operation that has a Triton implementation."""
    found = []
    for folder in iter_modules(thothy_kernels.__path__):
        name = f"thothy_kernels.{folder.name}.triton_impl"
        if folder.ispkg and find_spec(name) is not None:
            module = import_module(name)
            found += [(folder.name, variant) for variant in module.variants()]
    return found


def compiled_at(number: int) -> dict[str, object]:
    """Compile one variant for one target, by number, in a process of the pool."""
    at, target = divmod(number, len(CAPABILITIES))
    return compiled(*all_variants()[at], CAPABILITIES[target])


def compiled(op: str, variant: Variant, capability: int) -> dict[str, object]:
    names = variant.kernel.arg_names
    signature = {
        name: "constexpr" if name in variant.constants else variant.signature[name]
        for name in names
    }
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        # What the allocator promises of every tensor's address, and the variant of strides.
        attrs={
            (at,): [["tt.divisibility", 16]]
            for at, name in enumerate(names)
            if signature[name].startswith("*") or name in variant.divisible
        },
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    record = {"op": op, "variant": variant.name, "target": f"sm_{capability}"}
    record["shared_bytes"] = binary.metadata.shared
    return record | resources(binary.asm["ptx"], get_ptxas(capability).path)


def resources(ptx: str, ptxas: str) -> dict[str, int]:
    """Registers and spilled bytes per thread, from the assembler that Triton ships."""
    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [ptxas, "-v", f"-arch={target[1]}", path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    counts = {"registers": r"Used (\d+) registers", "spilled_bytes": r"(\d+) bytes spill stores"}
    return {name: int(re.findall(pattern, said)[-1]) for name, pattern in counts.items()}


if __name__ == "__main__":
    sys.exit(main())
