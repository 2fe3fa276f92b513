"""`doctor` and `init`: commands that set up a machine and a first manifest."""

from pathlib import Path
from typing import Annotated

import typer

from thothy_batch.cli.output import print_blocks, print_json

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def doctor(
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Also measure this model: hub id or directory."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="auto|float32|bfloat16", help="Number format of the model."),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(metavar="none|int8", help="Quantization of its linear layers."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read only config.json, no weights.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Only compile the kernels of --model (default: the embedded model) and measure "
            "the device, so that its first run starts fast.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what this machine can do: device, kernels, versions, measured compute and bandwidth."""
    from thothy_batch.cli.display import choose_display
    from thothy_batch.cli.render_doctor import doctor_blocks, preparation_blocks
    from thothy_batch.runner.commands import diagnose, model_to_measure
    from thothy_batch.runner.commands import prepare as prepare_machine

    wanted = model_to_measure(model, dtype, quantization, random_weights=random_weights)
    if prepare:
        with choose_display(quiet=False) as display:
            done = prepare_machine(display, wanted)
        print_json(done) if as_json else print_blocks(preparation_blocks(done))
        return
    with choose_display(quiet=False) as display:
        found = diagnose(display, wanted, owns_process=True)
    print_json(found) if as_json else print_blocks(doctor_blocks(found))


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
) -> None:
    """Create a working example: manifest, sample Parquet, cron line."""
    from thothy_batch.cli.render_init import init_blocks
    from thothy_batch.runner.commands import init_folder

    print_blocks(init_blocks(init_folder(folder)))
