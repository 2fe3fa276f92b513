"""`bench`: measures the speed of the engine on a workload."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thothy_batch.cli.output import print_blocks, print_json

if TYPE_CHECKING:
    from thothy_batch.bench import BenchFigures, WorkloadOptions
    from thothy_batch.records import EngineSpec


def bench(
    workload: Annotated[
        Path | None,
        typer.Argument(
            metavar="WORKLOAD",
            help="Parquet with prompt_token_ids and max_tokens, or a trace of lengths (Parquet or "
            "CSV) with prompt_tokens and output_tokens.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="100-1024/100-1024",
            help="Generate requests with these prompt/output lengths; 778/128 for fixed ones.",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of requests of --lengths. Default: 256."),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Generate N documents, each shared by several prompts; --lengths is then the rest "
            "of the prompt and the output. Default: 64-128/64-256.",
        ),
    ] = None,
    document_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of each document. Default: 3000.")
    ] = None,
    artifacts: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts on each document. Default: 4.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Run only the first N requests.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generated workload.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Hub id or directory. Default: the embedded model."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read only config.json, no weights.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(metavar="auto|float32|bfloat16", help="Number format of the model.")
    ] = "auto",
    speculation: Annotated[
        str, typer.Option(metavar="auto|off", help="Speculative decoding of greedy requests.")
    ] = "auto",
    quantization: Annotated[
        str, typer.Option(metavar="none|int8", help="Quantization of its linear layers.")
    ] = "none",
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Device to compute on.")
    ] = "auto",
    impl: Annotated[
        str,
        typer.Option(metavar="auto|reference|cpu|triton|flex", help="Kernel implementation."),
    ] = "auto",
    max_seqs: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum number of running sequences.")
    ] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum number of tokens in a step.")
    ] = None,
    kv_memory: Annotated[
        str, typer.Option(metavar="auto|8GiB|0.9", help="Memory for KV blocks.")
    ] = "auto",
    no_prefix_sharing: Annotated[
        bool, typer.Option("--no-prefix-sharing", help="Do not share the KV of common prefixes.")
    ] = False,
    order: Annotated[
        str, typer.Option(metavar="auto|fifo|length|prefix", help="Order of the requests.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure engine speed on a workload file or a length trace; the last line is JSON."""
    from thothy_batch.bench import WorkloadOptions
    from thothy_batch.cli.render_bench import bench_blocks
    from thothy_batch.records import EngineSpec, ModelSpec
    from thothy_batch.runner.commands import known_dtype

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
        kv_memory=_parse_kv_memory(kv_memory),
        max_seqs=max_seqs,
        max_step_tokens=max_step_tokens,
        prefix_sharing=not no_prefix_sharing,
        speculation=speculation,
    )
    figures = _measure(chosen, spec, order)
    if as_json:
        print_json(figures.as_json())
    else:
        print_blocks(bench_blocks(figures))
        print_json(figures.as_json(), is_line=True)
    # As with a run, refused requests are no success.
    raise typer.Exit(1 if figures.num_refused else 0)


def _measure(chosen: "WorkloadOptions", spec: "EngineSpec", order: str) -> "BenchFigures":
    from thothy_batch.bench import check_order, run_bench, vocabulary_of
    from thothy_batch.cli.display import choose_display

    chosen.check()
    check_order(order)
    with choose_display(quiet=False) as display:
        display.phase("generating the workload")
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
    from thothy_batch.runner.session import IfLocked, device_locked, holder_of

    holder = holder_of("bench", None, datetime.now().astimezone())
    try:
        with device_locked(device, holder, IfLocked(), lambda text: None):
            yield
    except LockedError as busy:
        busy.hint = "wait for it, or bench with --device cpu"
        raise


def _parse_kv_memory(text: str) -> int | float | None:
    from thothy_batch.errors import ManifestError
    from thothy_batch.manifest import parse_memory

    try:
        share = float(text)
    except ValueError:
        share = None
    try:
        return parse_memory(text if share is None else share)
    except ValueError as error:
        raise ManifestError(f"--kv-memory {error}") from error
