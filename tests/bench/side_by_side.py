"""Results of several engines run in turn: medians, spreads, and ratios within one round."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

Run = dict[str, Any]  # engine, workload, round; figures, or `invalid`


def turns(rounds: int, workloads: Sequence[str], engines: Sequence[str]) -> Iterator[Run]:
    """A B C A B C ... on each workload; a round is over before the next begins."""
    for number in range(1, rounds + 1):
        for workload in workloads:
            for engine in engines:
                yield {"round": number, "workload": workload, "engine": engine}


def compared(runs: Sequence[Run], base: str) -> dict[str, dict[str, Any]]:
    """By workload and engine, of the runs that are valid; engines without one are left out.

    Ratios: how many times as long as `base` an engine took in the same round.
    """
    found: dict[str, dict[str, Any]] = {}
    for workload in dict.fromkeys(run["workload"] for run in runs):
        valid = [run for run in runs if run["workload"] == workload and "invalid" not in run]
        beside = {run["round"]: run["seconds"] for run in valid if run["engine"] == base}
        found[workload] = {
            engine: _figures([run for run in valid if run["engine"] == engine], beside)
            for engine in dict.fromkeys(run["engine"] for run in valid)
        }
    return found


def _figures(runs: Sequence[Run], beside: dict[int, float]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    ratios = [run["seconds"] / beside[run["round"]] for run in runs if run["round"] in beside]
    roofline = [run["roofline_fraction"] for run in runs if run.get("roofline_fraction")]
    return {
        "runs": len(runs),
        "seconds": spread(seconds),
        "output_tokens_per_s": spread([run["output_tokens"] / run["seconds"] for run in runs]),
        "ratio": spread(ratios) if ratios else None,
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
        "roofline_fraction": spread(roofline) if roofline else None,
        "versions": runs[-1].get("versions"),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, to six figures."""
    found = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def table(figures: dict[str, dict[str, Any]], base: str) -> str:
    """One line for each engine on each workload."""
    lines = []
    for workload, engines in figures.items():
        lines.append(f"{workload}: seconds, output tokens/s, times {base}, memory, roofline")
        for engine, found in engines.items():
            cells = [
                _shown(found["seconds"], ".1f"),
                f"{found['output_tokens_per_s']['median']:.1f}",
                _shown(found["ratio"], ".3f"),
                f"{found['peak_memory_bytes'] / 1e9:.2f} GB",
                _shown(found["roofline_fraction"], ".1%"),
            ]
            lines.append(f"  {engine:20} {'  '.join(cells)}  ({found['runs']} runs)")
    return "\n".join(lines)


def _shown(values: dict[str, float] | None, form: str) -> str:
    if values is None:
        return "-"
    return f"{values['median']:{form}} ({values['min']:{form}}-{values['max']:{form}})"
