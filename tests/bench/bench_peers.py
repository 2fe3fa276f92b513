"""This engine and others on the same workload files, in turn, on this machine.

    python tests/bench/bench_peers.py --peers FOLDER                       # make bench-peers
    python tests/bench/bench_peers.py --peers FOLDER --only ours,ov --rounds 5
    python tests/bench/bench_peers.py --ours default int8 --old ../before --workloads mix:2

Every run is a process of its own. Seconds leave loading out: planning and computing of ours, what
its script counts of a peer. A run that does not give exactly the tokens that were asked for is
invalid and counts for nothing. Checkpoint, export and workloads are made once, in --work. The last
line is one JSON document; --out has it after every run: what is cut off keeps what was done.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from peer_engines import (
    BASE,
    EXPORT,
    PEERS,
    SCRIPTS,
    SLOW,
    VARIANTS,
    Engine,
    Wanted,
    our_engines,
    peer_engine,
)
from peer_setup import DEFAULT_N, checkpoint, export, workload
from provenance import ROOT, short_commit
from side_by_side import compared, table, turns
from watched import MEMORY_IS

from thothy_batch.engine.cost.measurement_cache import device_name

_SHAPE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings"),
)
_LISTEN_S = 0.3


def main() -> None:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    model = checkpoint(options.work) if options.model is None else options.model
    with tempfile.TemporaryDirectory(prefix="thothy-peers-") as links:
        engines = chosen(options, model, Path(links))
        files = {name: file_of(name, options) for name in options.workloads}
        document = described(options, model, engines, files)
        run_all(options, engines, files, document)
    print(table(document["figures"], document["base"]))
    print(json.dumps(document))
    sys.exit(int(any("invalid" in run for run in document["runs"])))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of environments, made by peer_setup.py")
    parser.add_argument("--work", type=Path, default=ROOT / ".peers/work")
    parser.add_argument("--scripts", type=Path, default=SCRIPTS, help="of the peers")
    parser.add_argument(
        "--ours", nargs="+", default=["default"], metavar="VARIANT",
        help=f"{', '.join(VARIANTS)}, or NAME=OPTIONS of thothy-batch bench",
    )  # fmt: skip
    parser.add_argument("--old", type=Path, help="an older checkout of ours, compared too")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="A,B",
        help=f"{BASE} (all variants), old, {', '.join(PEERS)}; left out: all but "
        f"{' and '.join(SLOW)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workloads", nargs="+", default=["mix:1", "fanout:1"], metavar="SHAPE:SEED"
    )
    parser.add_argument("--n", type=int, default=DEFAULT_N, help="requests of a workload")
    parser.add_argument("--model", help="for ours, in place of the checkpoint in --work")
    parser.add_argument("--timeout-s", type=float, default=3600.0, help="of one run")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    return parser.parse_args()


def chosen(options: argparse.Namespace, model: str | Path, links: Path) -> list[Engine]:
    """Engines that run, ours first; those that cannot are named on stderr."""
    named = options.only or [BASE, "old", *(name for name in PEERS if name not in SLOW)]
    if unknown := [name for name in named if name not in (BASE, "old", *PEERS)]:
        raise SystemExit(f"--only {unknown[0]}: one of {BASE}, old, {', '.join(PEERS)}")
    old = options.old if "old" in named else None
    engines = our_engines(options.ours if BASE in named else [], old, str(model), links)
    for name in (name for name in PEERS if name in named):
        engine = peer_engine(name, options.peers, options.scripts, options.work)
        if isinstance(engine, str):
            print(f"{name} is left out: {engine}", file=sys.stderr, flush=True)
            continue
        if PEERS[name].model == EXPORT:
            export(options.work, engine.before[0])
        engines.append(engine)
    if not engines:
        raise SystemExit("no engine is left to run")
    return engines


def file_of(name: str, options: argparse.Namespace) -> Path:
    shape, _, seed = name.partition(":")
    if shape not in ("mix", "fanout") or not seed.isdigit():
        raise SystemExit(f"--workloads {name}: write mix:1 or fanout:2")
    return workload(options.work, shape, int(seed), options.n)


def described(
    options: argparse.Namespace, model: str | Path, engines: list[Engine], files: dict[str, Path]
) -> dict[str, Any]:
    """The document before the first run: where the figures are from, and how they were asked for.

    Holds no paths: they say more of the machine than of the figures.
    """
    config = Path(model) / "config.json"
    shape = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return {
        "benchmark": "bench_peers",
        "commit": short_commit(),
        "cpu": device_name("cpu"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "model": {"name": Path(model).name} | {k: shape[k] for k in _SHAPE if k in shape},
        "workloads": {name: asdict(wanted_of(path)) for name, path in files.items()},
        "settings": {"rounds": options.rounds, "n": options.n, "dtype": "bfloat16"},
        "ours": options.ours,
        "peers": {e.name: e.after[1:] for e in engines if not e.is_ours},
        "seconds_are": "planning and computing; what a peer's script counts; loading left out",
        "memory_is": MEMORY_IS,
        "ratio_is": "an engine's seconds over those of the base in the same round",
        "base": engines[0].name,
        "figures": {},
        "runs": [],
    }


def wanted_of(path: Path) -> Wanted:
    columns = pq.read_table(path, columns=["prompt_token_ids", "max_tokens"]).to_pydict()
    prompts = sum(map(len, columns["prompt_token_ids"]))
    return Wanted(len(columns["max_tokens"]), prompts, sum(columns["max_tokens"]))


def run_all(
    options: argparse.Namespace,
    engines: list[Engine],
    files: dict[str, Path],
    document: dict[str, Any],
) -> None:
    """Every run in turn; figures and --out are up to date after each."""
    by_name = {engine.name: engine for engine in engines}
    wanted = {name: wanted_of(path) for name, path in files.items()}
    for turn in turns(options.rounds, list(files), list(by_name)):
        name = turn["workload"]
        # Where other work goes on, figures are worth less.
        turn["busy_before"] = psutil.cpu_percent(_LISTEN_S) / 100
        run = turn | by_name[turn["engine"]].run(files[name], wanted[name], options.timeout_s)
        document["runs"].append(run)
        document["figures"] = compared(document["runs"], document["base"])
        if options.out is not None:
            options.out.write_text(json.dumps(document) + "\n", encoding="utf-8")
        said = f"INVALID: {run['invalid']}" if "invalid" in run else f"{run['seconds']:.2f} s"
        print(f"round {run['round']} {name} {run['engine']}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
