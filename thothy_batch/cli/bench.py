"""`bench`: how fast the engine is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thothy_batch.cli.output import print_json, print_text

if TYPE_CHECKING:
    from thothy_batch.bench.figures import BenchFigures
    from thothy_batch.bench.workload_options import WorkloadOptions
    from thothy_batch.records import EngineSpec


def bench(
    workload: Annotated[
        Path | None,
        typer.Argument(
            metavar="[WORKLOAD]",
            help="Parquet with prompt_token_ids and max_tokens, or a trace of lengths (Parquet or "
            "CSV) with prompt_tokens and output_tokens.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="100-1024/100-1024",
            help="Make requests up: prompt and output lengths; 778/128 where they do not vary.",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many requests of --lengths; left out: 256."),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Make documents up, each the beginning of several prompts; --lengths is then "
            "what follows it and the output (64-128/64-256).",
        ),
    ] = None,
    document_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a document; left out: 3000.")
    ] = None,
    artifacts: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts on each document; left out: 4.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Run only the first N requests.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is made up.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Hub id or directory; left out: the embedded model."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read no weights of it, only config.json.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(metavar="auto|float32|bfloat16", help="Number format of the model.")
    ] = "auto",
    speculation: Annotated[
        str, typer.Option(metavar="auto|off", help="Whether greedy rows verify guessed tokens.")
    ] = "auto",
    quantization: Annotated[
        str, typer.Option(metavar="none|int8", help="How its linears are quantised.")
    ] = "none",
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")
    ] = "auto",
    impl: Annotated[
        str,
        typer.Option(metavar="auto|reference|cpu|triton|flex", help="Which kernels are used."),
    ] = "auto",
    max_seqs: Annotated[
        int | None, typer.Option(metavar="N", help="Most sequences that run at once.")
    ] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens computed in one step.")
    ] = None,
    kv_memory: Annotated[
        str, typer.Option(metavar="auto|8GiB|0.9", help="Memory for KV blocks.")
    ] = "auto",
    no_prefix_sharing: Annotated[
        bool, typer.Option("--no-prefix-sharing", help="Compute equal beginnings every time.")
    ] = False,
    order: Annotated[
        str, typer.Option(metavar="auto|fifo|length|prefix", help="How requests are ordered.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Engine speed on a workload file or a length trace, one JSON line last."""
    from thothy_batch.bench.workload_options import WorkloadOptions
    from thothy_batch.cli.render_bench import bench_text
    from thothy_batch.records import EngineSpec, ModelSpec
    from thothy_batch.runner.commands.doctor import known_dtype

    chosen = WorkloadOptions(
        workload, lengths, requests, documents, document_tokens, artifacts, limit, seed
    )
    spec = EngineSpec(
        model=ModelSpec(
            id=model or "",
            dtype=known_dtype(dtype),
            quantization=quantization,
            random_weights=random_weights,
        ),
        device=device,
        impl=impl,
        kv_memory=_memory(kv_memory),
        max_seqs=max_seqs,
        max_step_tokens=max_step_tokens,
        prefix_sharing=not no_prefix_sharing,
        speculation=speculation,
    )
    figures = _measure(chosen, spec, order)
    document = figures.as_json()
    print_json(document) if as_json else print_text(bench_text(document))
    # As with a run: what could not be done is no success.
    raise typer.Exit(1 if figures.num_refused else 0)


def _measure(chosen: "WorkloadOptions", spec: "EngineSpec", order: str) -> "BenchFigures":
    from thothy_batch.bench.measure import check_order, run_bench, vocabulary_of
    from thothy_batch.cli.display import choose_display

    chosen.check()
    check_order(order)
    with choose_display(quiet=False) as display:
        display.phase("making the workload")
        workload = chosen.make(vocabulary_of(spec.model))
        return run_bench(
            spec,
            workload.requests,
            workload=workload.description,
            refused=workload.refused,
            order=order,
            seed=chosen.seed,
            progress=display.phase,
            owns_process=True,
            lock_device=_lock_device,
        )


@contextmanager
def _lock_device(device: str) -> Iterator[None]:
    """Holds the GPU as a run does: either would slow the other down. Raises LockedError."""
    from thothy_batch.errors import LockedError
    from thothy_batch.runner.session.locking import device_locked, holder_of
    from thothy_batch.runner.session.options import IfLocked

    holder = holder_of("bench", None, datetime.now().astimezone())
    try:
        with device_locked(device, holder, IfLocked(), lambda text: None):
            yield
    except LockedError as busy:
        busy.hint = "wait for it, or bench with --device cpu"
        raise


def _memory(text: str) -> int | float | None:
    from thothy_batch.errors import ManifestError
    from thothy_batch.manifest.units import parse_memory

    try:
        share = float(text)
    except ValueError:
        share = None
    try:
        return parse_memory(text if share is None else share)
    except ValueError as error:
        raise ManifestError(f"--kv-memory {error}") from error
