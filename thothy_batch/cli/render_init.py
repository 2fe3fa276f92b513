"""Text of `init`."""

from rich.console import RenderableType

from thothy_batch.report.layout import Line
from thothy_batch.runner.commands.init import InitResult


def init_blocks(made: InitResult) -> list[RenderableType]:
    """The files created, and the next steps."""
    return [
        Line("created", style="bold"),
        *(Line(str(path), indent=2) for path in made.files),
        Line("next", style="bold"),
        Line(f"thothy-batch plan {made.manifest}", indent=2),
        Line(f"thothy-batch run {made.manifest}", indent=2),
        Line("every night (crontab -e)", style="bold"),
        Line(made.cron_line, indent=2),
    ]
