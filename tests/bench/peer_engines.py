"""The engines of bench_peers.py: which command runs each, and what its JSON says.

Ours counts planning and computing, a peer what its script counts: loading is left out of both.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from provenance import ROOT
from watched import Ran, run_watched

SCRIPTS = ROOT.parent / "shared/bench/peers"
BASE = "ours"  # what the others are compared with
# Options of `thothy-batch bench` that have a name here; others are written NAME=OPTIONS.
VARIANTS = {
    "default": "",
    "int8": "--quantization int8",
    "no-speculation": "--speculation off",
}
# Set for one project's processes, they would slow others down or change what is imported.
_NOT_HANDED_ON = ("GOMP_SPINCOUNT", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine. `environment`: folder of its own, None where the project's serves.

    `model`: which form of the checkpoint it takes, a name in the work folder.
    """

    script: str
    environment: str | None
    model: str
    arguments: tuple[str, ...] = ()


CHECKPOINT, EXPORT = "qwen3-0.6b", "ov"
# OpenVINO's precision: what is fastest there, float32 where there are no products of bfloat16.
_PRECISION = "bf16" if torch.cpu._is_avx512_bf16_supported() else "f32"
PEERS = {
    "vllm": Peer("vllm_cpu.py", "vllm", CHECKPOINT),
    "ov": Peer("openvino_cb.py", "ov", EXPORT, (_PRECISION,)),
    "static": Peer("transformers_static.py", None, CHECKPOINT, ("16",)),
    "cb": Peer("transformers_cb.py", None, CHECKPOINT),
}
SLOW = ("static", "cb")  # five times as long and more: run where they are named


@dataclass(frozen=True, slots=True)
class Wanted:
    """The work that every engine must have done on a workload."""

    requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Engine:
    """A command in which the workload's path and its own arguments follow `before`."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False

    def run(self, workload: Path, wanted: Wanted, timeout_s: float | None) -> dict[str, Any]:
        """Figures of one run, or `invalid` with the reason. Errors in full go to stderr."""
        kept = {name: text for name, text in os.environ.items() if name not in _NOT_HANDED_ON}
        command = [*self.before, str(workload), *self.after]
        ran = run_watched(command, kept | self.variables, timeout_s)
        found = self._figures(ran, wanted)
        if "invalid" in found:
            print(ran.errors[-2000:], file=sys.stderr, flush=True)
        return found | {"peak_memory_bytes": ran.peak_bytes, "process_s": round(ran.wall_s, 2)}

    def _figures(self, ran: Ran, wanted: Wanted) -> dict[str, Any]:
        if ran.code is None:
            return {"invalid": f"killed after {ran.wall_s:.0f} s"}
        if ran.code:
            return {"invalid": f"exit code {ran.code}"}
        try:
            document = json.loads(ran.output if self.is_ours else _last_object(ran.output))
            figures = _of_ours(document) if self.is_ours else _of_peer(document)
        except (ValueError, KeyError) as error:
            return {"invalid": f"no figures in what it printed: {error!r}"}
        for name in ("requests", "prompt_tokens", "output_tokens"):
            if figures[name] != getattr(wanted, name):
                text = f"{figures[name]} {name}, {getattr(wanted, name)} were asked for"
                return {"invalid": text}
        return figures


def our_engines(names: list[str], old: Path | None, model: str, links: Path) -> list[Engine]:
    """This checkout with each variant, then an older one. Raises SystemExit for an unknown name.

    `links`: a folder to make links in: kernels/ is imported by another name.
    """
    engines = []
    for given in dict.fromkeys(names):
        name, is_free, options = given.partition("=")
        if not is_free and name not in VARIANTS:
            raise SystemExit(f"--ours {name}: one of {', '.join(VARIANTS)}, or NAME=OPTIONS")
        shown = BASE if name == "default" else f"{BASE}-{name}"
        more = (options if is_free else VARIANTS[name]).split()
        engines.append(_our_engine(shown, ROOT, model, links, more))
    if old is not None:
        engines.append(_our_engine("old", old.resolve(), model, links, []))
    return engines


def _our_engine(name: str, checkout: Path, model: str, links: Path, more: list[str]) -> Engine:
    folder = links / name
    folder.mkdir(parents=True)
    (folder / "thothy_kernels").symlink_to(checkout / "kernels")
    return Engine(
        name,
        (sys.executable, "-m", "thothy_batch", "bench"),
        ("--model", model, "--dtype", "bfloat16", "--json", *more),
        # Safe: the folder that this is called in stands first otherwise, and may be a checkout.
        {"PYTHONPATH": os.pathsep.join((str(checkout), str(folder))), "PYTHONSAFEPATH": "1"},
        is_ours=True,
    )


def peer_engine(name: str, environments: Path | None, scripts: Path, work: Path) -> Engine | str:
    """A peer that is ready to run, or why it is not."""
    peer, python = PEERS[name], Path(sys.executable)
    if peer.environment is not None:
        if environments is None:
            return "no --peers folder was named"
        python = environments.absolute() / peer.environment / "bin/python"
        if not python.is_file():
            return f"--peers has no {peer.environment}/bin/python: see make peers"
    script = scripts / peer.script
    if not script.is_file():
        return f"{peer.script} is not there: the shared folder is needed"
    return Engine(name, (str(python), str(script)), (str(work / peer.model), *peer.arguments))


def _last_object(output: str) -> str:
    """The last line that may be a JSON object: engines print about themselves, too."""
    return next((line for line in reversed(output.splitlines()) if line.startswith("{")), "")


def _of_ours(document: dict[str, Any]) -> dict[str, Any]:
    kept = {name: document[name] for name in ("prompt_tokens", "output_tokens")}
    kept |= {
        "requests": document["num_done"],
        "seconds": document["engine_s"] + document["plan_s"],
        "own_peak_memory_bytes": document["peak_memory_bytes"],
        "settings": document["engine"],
    }
    # An older checkout may say less.
    more = ("roofline_fraction", "load_s", "cached_prompt_tokens", "num_steps", "versions")
    return kept | {name: document.get(name) for name in (*more, "commit")}


def _of_peer(document: dict[str, Any]) -> dict[str, Any]:
    kept = {name: document[name] for name in ("requests", "prompt_tokens", "output_tokens")}
    versions = {document["engine"]: document.get("version")}
    return kept | {"seconds": document["wall_s"], "versions": versions}
