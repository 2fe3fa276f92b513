"""`doctor` and `init`: what is about this machine and a first night on it."""

from pathlib import Path
from typing import Annotated

import typer

from thothy_batch.cli.output import print_json, print_text

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def doctor(
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Measure this model, too: a hub id or a directory."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="auto|float32|bfloat16", help="Number format of the model."),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(metavar="none|int8", help="How its linears are quantised."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read no weights of it, only config.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What this machine can do: device, kernels, versions, measured compute and bandwidth."""
    from thothy_batch.cli.display import choose_display
    from thothy_batch.cli.render_doctor import doctor_text
    from thothy_batch.runner.commands.doctor import diagnose, model_to_measure

    wanted = model_to_measure(model, dtype, quantization, random_weights=random_weights)
    with choose_display(quiet=False) as display:
        found = diagnose(display, wanted, owns_process=True)
    print_json(found) if as_json else print_text(doctor_text(found))


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
) -> None:
    """A working starter: manifest, sample Parquet, cron line."""
    from thothy_batch.cli.render_run import starter_text
    from thothy_batch.runner.commands.init import create_starter

    print_text(starter_text(create_starter(folder)))
