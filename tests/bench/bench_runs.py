"""Whole runs of the engine on a device: models and workloads, beside transformers where asked for.

    python tests/bench/bench_runs.py --dry-run                      # a tiny model on the CPU
    python tests/bench/bench_runs.py --peer --out runs.json         # on a GPU

Random weights in bfloat16, shapes of the published models, the same token ids and output lengths
for both. Each run is a process of its own, so that neither memory nor a failure passes on to the
next; the engine warms up while it loads, transformers before its clock starts. The last line is
one JSON document; --out has it after every case, so that what is cut off keeps what was done.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer_transformers import run_peer

ROOT = Path(__file__).resolve().parents[2]
TRACE_FOLDERS = (ROOT / "gpu_pack/traces", ROOT.parent / "shared/data/traces")
TRACES = {
    "arxiv": "arxiv_summarization_lengths",
    "azure-conv": "azure2023_conv",
    "azure-code": "azure2023_code",
}
# In full, and of a dry run.
LENGTHS = {
    "100-1024": ("100-1024/100-1024", "6-64/6-64"),
    "778-128": ("778/128", "48/8"),
    "1000-1000": ("1000/1000", "62/62"),
    "2048-128": ("2048/128", "128/8"),
    "documents": ("64-128/64-256", "4-8/4-16"),  # what follows the document, output
}
DOCUMENT_TOKENS = (3000, 200)
CASES = (*LENGTHS, *TRACES)
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
COMMON: dict[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "torch_dtype": "bfloat16",
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936,
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "max_position_embeddings": 40_960, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256,
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 131_072, "rope_theta": 5e5,
        "rope_scaling": LLAMA_3_ROPE, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
}  # fmt: skip
TINY_MODEL: dict[str, Any] = MODELS["qwen3-0.6b"] | {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
GRACE_S = 120  # beyond the budget, before a run that goes on is killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--requests", type=int, default=256, help="of each case")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", action="store_true", help="transformers' continuous batching too")
    parser.add_argument("--budget-s", type=float, help="start no case after so many seconds")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # one run, described in JSON
    options = parser.parse_args()
    if options.worker is not None:
        print(json.dumps(work(**json.loads(options.worker))))
        return
    if options.dry_run:
        options.device, options.models, options.requests = "cpu", ["tiny"], 4
    with tempfile.TemporaryDirectory(prefix="thothy-runs-") as name:
        document = run_all(options, Path(name))
    print(json.dumps(document))
    failed = any("error" in row.get(name, {}) for row in document["runs"] for name in ENGINES)
    sys.exit(int(failed))


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every case in turn. What did not run is told, with the reason."""
    # The folder kernels/ is imported as thothy_kernels: a link serves where nothing is installed.
    (folder / "thothy_kernels").symlink_to(ROOT / "kernels")
    document: dict[str, Any] = {"benchmark": "bench_runs", "dry_run": options.dry_run}
    document |= {"device": options.device, "seed": options.seed, "runs": [], "not_run": []}
    began = time.monotonic()
    for model in options.models:
        write_config(folder / model, MODELS.get(model, TINY_MODEL))
        for case in options.cases:
            left = None
            if options.budget_s is not None:
                left = options.budget_s - (time.monotonic() - began)
            if reason := why_not(case, left):
                print(f"{model} {case}: not run: {reason}", flush=True)
                document["not_run"].append({"model": model, "case": case, "reason": reason})
            else:
                document["runs"].append(run_case(options, folder, model, case, left))
            if options.out is not None:
                options.out.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return document


def why_not(case: str, left: float | None) -> str:
    """Why a case cannot be started; "": it can."""
    if left is not None and left <= 0:
        return "the budget is spent"
    if case in TRACES and trace_file(case) is None:
        folders = " or ".join(map(str, TRACE_FOLDERS))
        return f"{TRACES[case]}.parquet or .csv is not in {folders}"
    return ""


def trace_file(case: str) -> Path | None:
    paths = [f / f"{TRACES[case]}{end}" for f in TRACE_FOLDERS for end in (".parquet", ".csv")]
    return next((path for path in paths if path.is_file()), None)


def write_config(folder: Path, shape: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(COMMON | shape), encoding="utf-8")


def run_case(
    options: argparse.Namespace, folder: Path, model: str, case: str, left: float | None
) -> dict[str, Any]:
    """A case on each engine, and how many times as long the peer took."""
    asked = {
        "folder": str(folder / model), "case": case, "device": options.device,
        "num_requests": options.requests, "tiny": options.dry_run, "seed": options.seed,
    }  # fmt: skip
    row: dict[str, Any] = {"model": model, "case": case}
    # A dry run shows that processes work with its first case, and saves their time after that.
    run = here if options.dry_run and case != options.cases[0] else in_process
    end = None if left is None else time.monotonic() + left + GRACE_S
    for engine in ENGINES if options.peer else ("thothy_batch",):
        timeout = None if end is None else max(1.0, end - time.monotonic())
        row[engine] = run(asked | {"engine": engine}, folder, timeout)
        print(f"{model} {case} {engine}: {shown(row[engine])}", flush=True)
    a, b = (row.get(engine, {}) for engine in ENGINES)
    if "engine_s" in a and "engine_s" in b and a["output_tokens"] == b["output_tokens"]:
        row["ratio"] = round(b["engine_s"] / a["engine_s"], 3)
        print(f"{model} {case}: transformers took {row['ratio']:.2f} times as long", flush=True)
    return row


def shown(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    shares = (
        f"{name} {found[key]:.1%}" if found.get(key) is not None else f"{name} not known"
        for name, key in (("roofline", "roofline_fraction"), ("busy", "busy_fraction"))
    )
    return (
        f"{found['output_tokens_per_s']:,.0f} output tokens/s, "
        f"{found['artifacts_per_hour']:,.0f} artifacts/h, {', '.join(shares)}, "
        f"{found['peak_memory_bytes'] / (1 << 30):.2f} GiB at most, {found['engine_s']:.2f} s"
    )


def in_process(asked: dict[str, Any], folder: Path, timeout: float | None) -> dict[str, Any]:
    """The figures of one run, or its error."""
    paths = [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, __file__, "--worker", json.dumps(asked)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"killed after {timeout:.0f} s: the budget was spent"}
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {done.stderr[-2000:].strip()}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def here(asked: dict[str, Any], folder: Path, timeout: float | None) -> dict[str, Any]:
    """The same in this process; an error ends all."""
    sys.path[:0] = [str(ROOT), str(folder)]
    return work(**asked)


def work(engine: str, folder: str, case: str, device: str, **asked: Any) -> dict[str, Any]:
    """One run of one engine, in this process."""
    shape = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    workload = workload_of(case, vocab_size=shape["vocab_size"], **asked)
    return ENGINES[engine](workload, folder, device, asked["seed"])


def workload_of(case: str, *, num_requests: int, tiny: bool, vocab_size: int, seed: int) -> Any:
    from thothy_batch.bench.files import trace_workload
    from thothy_batch.bench.workload import Lengths, documents_workload, lengths_workload

    if case in TRACES:
        path = trace_file(case)
        assert path is not None, "asked before"
        return trace_workload(path, vocab_size=vocab_size, limit=num_requests, seed=seed)
    made: dict[str, Any] = {"vocab_size": vocab_size, "seed": seed}
    lengths = Lengths.parse(LENGTHS[case][tiny])
    if case == "documents":
        num, tokens = max(1, num_requests // 4), DOCUMENT_TOKENS[tiny]
        return documents_workload(num, document_tokens=tokens, artifacts=4, lengths=lengths, **made)
    return lengths_workload(lengths, num_requests=num_requests, **made)


def ours(workload: Any, folder: str, device: str, seed: int) -> dict[str, Any]:
    from thothy_batch.bench.measure import run_bench
    from thothy_batch.records import EngineSpec, ModelSpec

    figures = run_bench(
        EngineSpec(ModelSpec(folder, dtype="bfloat16", random_weights=True), device=device),
        workload.requests,
        workload=workload.description,
        refused=workload.refused,
        seed=seed,
        owns_process=True,
    )
    return figures.as_json()


ENGINES: dict[str, Callable[[Any, str, str, int], dict[str, Any]]] = {
    "thothy_batch": ours,
    "transformers": run_peer,
}


if __name__ == "__main__":
    main()
