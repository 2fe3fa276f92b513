"""`run` and `plan`: commands that take a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thothy_batch.cli.output import print_blocks, print_json, report_error

if TYPE_CHECKING:
    from thothy_batch.manifest import Overrides


def _num_rows(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--limit is {text!r}; use a whole number of rows") from None


ManifestPath = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="YAML manifest, or a Parquet job manifest.")
]
StorePath = Annotated[
    Path | None, typer.Option("--store", metavar="PATH", help="Store, instead of the manifest's.")
]
ModelId = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="ID", help="Model, instead of the manifest's: hub id or directory."
    ),
]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Device to compute on.")]
JobNames = Annotated[
    list[str] | None, typer.Option("--job", metavar="NAME", help="Run only this job; repeatable.")
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", parser=_num_rows, help="Read only the first N rows of each job."),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--var",
        metavar="NAME=VALUE",
        help="Value of ${NAME} in the manifest, before the environment's; repeatable. "
        "--var date=2026-12-01 pins the day that ${date} shows.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the summary.")]


def run(
    manifest: ManifestPath,
    store: StorePath = None,
    model: ModelId = None,
    device: Device = None,
    job: JobNames = None,
    limit: Limit = None,
    var: Variables = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="06:00|ISO", help="Stop at this time of day, or date and time."),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(metavar="5h", help="Stop after this duration: 90s, 30m, 5h.")
    ] = None,
    if_locked: Annotated[
        str,
        typer.Option(
            metavar="fail|skip|wait=30m", help="What to do when another run holds the store."
        ),
    ] = "fail",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute entries that failed before again.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compute everything, finished or not.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a manifest; running it again continues where it stopped."""
    # Imported late, here and in every command: --help needs none of it.
    from thothy_batch.cli import signals
    from thothy_batch.cli.display import choose_display
    from thothy_batch.cli.render_run import summary_blocks
    from thothy_batch.runner.commands import run_manifest
    from thothy_batch.runner.session import IfLocked, RunOptions, time_budget_s

    options = RunOptions(
        manifest=manifest,
        overrides=_overrides(store, model, device, job, limit, var),
        deadline=deadline,
        time_budget_s=time_budget_s(time_budget),
        if_locked=IfLocked.parse(if_locked),
        retry_failed=retry_failed,
        force=force,
    )
    with choose_display(quiet=quiet) as display:
        summary = run_manifest(options, display)
        signals.ignore()
    if summary.error is not None:
        report_error(summary.error, as_json=False)
    print_json(summary.as_json()) if as_json else print_blocks(summary_blocks(summary))
    raise typer.Exit(summary.exit_code)


def plan(
    manifest: ManifestPath,
    store: StorePath = None,
    model: ModelId = None,
    device: Device = None,
    job: JobNames = None,
    limit: Limit = None,
    var: Variables = None,
    full: Annotated[bool, typer.Option("--full", help="Show the first prompt whole.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a manifest without loading weights: errors, counts, lengths, sharing, time.

    The exit code is that of a run that goes as planned.
    """
    from thothy_batch.cli.display import choose_display
    from thothy_batch.cli.render_plan import plan_blocks
    from thothy_batch.runner.commands import plan_manifest
    from thothy_batch.runner.session import RunOptions

    options = RunOptions(manifest, _overrides(store, model, device, job, limit, var))
    with choose_display(quiet=quiet) as display:
        found = plan_manifest(options, display)
    print_json(found) if as_json else print_blocks(plan_blocks(found, full=full))
    raise typer.Exit(found["exit_code"])


def _overrides(
    store: Path | None,
    model: str | None,
    device: str | None,
    jobs: list[str] | None,
    limit: int | None,
    variables: list[str] | None,
) -> "Overrides":
    from thothy_batch.manifest import Overrides, parse_variables

    given = parse_variables(variables or ())
    return Overrides(store, model, device, tuple(jobs or ()), limit, given)
