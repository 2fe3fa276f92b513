"""Memory of the engine, part by part, against the bound that is promised.

    python tests/bench/bench_memory.py W.parquet --model CHECKPOINT
    python tests/bench/bench_memory.py W.parquet --model CHECKPOINT --kv-memory 1GiB --limit 8

The bound is weights + KV pool + 15 % + 600 MB, with weights in the format that they are computed
in; a tied embedding that is also packed as the head counts twice, as it lies in memory. `strict`
is the bound in which it counts once. Resident memory is that of this process, on the CPU, as Linux
tells it: file pages that are mapped count. The last line is JSON; the exit code is 1 where the
bound does not hold.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import short_commit

from thothy_batch.bench import measure
from thothy_batch.bench.files import raw_workload
from thothy_batch.bench.measure import run_bench
from thothy_batch.choices import QUANTIZATIONS
from thothy_batch.engine import model_loader
from thothy_batch.engine.execution.cpu_runner import CPURunner
from thothy_batch.manifest.units import parse_memory
from thothy_batch.model import loading
from thothy_batch.model.checkpoint.locate import locate_model
from thothy_batch.model.config.model_config import load_config, num_parameters
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.quantization import saved_bytes
from thothy_batch.model.weights import TORCH_DTYPES
from thothy_batch.records import EngineSpec, ModelSpec

ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 600_000_000
PAGE_BYTES = 4096
PRESENT = np.uint64(1 << 63)  # in an entry of pagemap: the page is in memory


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes resident when a part was done; `peak` is the most since loading began."""

    after: str
    anonymous: int
    of_files: int
    peak: int

    @classmethod
    def now(cls, after: str) -> "Part":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        names = ("RssAnon", "RssFile", "VmHWM")
        return cls(after, *(int(values[name].split()[0]) * 1024 for name in names))


class Watch:
    """Notes what is resident after each part of loading and computing."""

    def __init__(self) -> None:
        self.parts = [Part.now("importing")]
        self.pool: KVPool | None = None

    def start(self) -> None:
        """Note everything that is called from now on."""
        watched = (
            (loading, "load_tokenizer", "reading the tokenizer"),
            (loading, "load_weights", "reading the weights"),
            (loading, "Decoder", "packing them"),
            (model_loader, "load_decoder", "loading the model"),
            (CPURunner, "warm_up", "warming up"),
            (measure, "build_engine", "measuring the machine"),
            (measure, "compute", "computing"),
        )
        for owner, name, after in watched:
            setattr(owner, name, self._noted(getattr(owner, name), after))
        pool_of = model_loader._pool_of

        def kept(*args: Any) -> KVPool:
            self.pool = pool_of(*args)
            return self.pool

        model_loader._pool_of = kept

    def _noted(self, function: Callable[..., Any], after: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.parts.append(Part.now(after))
            return result

        return call


def resident_bytes(tensor: torch.Tensor) -> int:
    """The part of a tensor's memory that is real: a page is from its first use on."""
    first, end = (
        tensor.data_ptr() // PAGE_BYTES,
        -(-(tensor.data_ptr() + tensor.nbytes) // PAGE_BYTES),
    )
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(8 * first)
        entries = np.frombuffer(file.read(8 * (end - first)), np.uint64)
    return int(np.count_nonzero(entries & PRESENT)) * PAGE_BYTES


def main() -> None:
    args = arguments()
    watch = Watch()
    watch.start()
    spec = EngineSpec(
        model=ModelSpec(id=str(args.model), dtype=args.dtype, quantization=args.quantization),
        device="cpu",
        kv_memory=None if args.kv_memory == "auto" else parse_memory(args.kv_memory),
    )
    requests = raw_workload(args.workload, limit=args.limit).requests
    peak = run_bench(spec, requests, owns_process=True).peak_memory_bytes
    document = report(args, watch, peak)
    for part in watch.parts:
        print(
            f"after {part.after:22} {part.anonymous / 1e6:8,.0f} MB anonymous "
            f"{part.of_files / 1e6:6,.0f} MB of files, at most {part.peak / 1e6:8,.0f} MB"
        )
    weights, head, pool, touched, bound, strict = (
        f"{document[f'{name}_bytes'] / 1e6:,.0f} MB"
        for name in ("weights", "head_copy", "pool", "pool_touched", "bound", "strict_bound")
    )
    print(f"weights {weights}, head again {head}, pool {pool}, of which {touched} were used")
    print(f"peak {peak / 1e6:,.0f} MB of {bound} allowed, {strict} strictly")
    print(json.dumps(document))
    sys.exit(0 if document["holds"] else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=TORCH_DTYPES, default="bfloat16")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="none")
    parser.add_argument("--kv-memory", default="auto", help="auto, 2GiB or a share of free memory")
    parser.add_argument("--limit", type=int, help="only the first so many requests")
    return parser.parse_args()


def report(args: argparse.Namespace, watch: Watch, peak: int) -> dict[str, Any]:
    pool = watch.pool
    assert pool is not None, "a runner on the CPU has one"
    config = load_config(locate_model(ModelSpec(id=str(args.model))).directory)
    itemsize, tied = TORCH_DTYPES[args.dtype].itemsize, config.tie_word_embeddings
    saved_body, saved_head = saved_bytes(config, args.dtype, args.quantization)
    weights = num_parameters(config) * itemsize - saved_body - (0 if tied else saved_head)
    head = config.vocab_size * config.hidden_size * itemsize - saved_head if tied else 0
    pool_bytes = pool.k.nbytes + pool.v.nbytes
    strict = int((weights + pool_bytes) * ALLOWED_SHARE) + ALLOWED_BYTES
    bound = strict + int(head * ALLOWED_SHARE)
    return {
        "benchmark": "memory",
        "commit": short_commit(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "workload": args.workload.name,
        "settings": {
            name: getattr(args, name) for name in ("dtype", "quantization", "kv_memory", "limit")
        },
        "weights_bytes": weights,
        "head_copy_bytes": head,
        "pool_bytes": pool_bytes,
        "pool_touched_bytes": resident_bytes(pool.k) + resident_bytes(pool.v),
        "peak_bytes": peak,
        "bound_bytes": bound,
        "strict_bound_bytes": strict,
        "holds": peak <= bound,
        "parts": [asdict(part) for part in watch.parts],
    }


if __name__ == "__main__":
    main()
