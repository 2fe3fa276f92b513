"""Text of `init`."""

import shlex

from rich.console import RenderableType

from thothy_batch.report import Line
from thothy_batch.runner.commands import InitResult


def init_blocks(made: InitResult) -> list[RenderableType]:
    """The files created, and the next steps."""
    manifest = shlex.quote(str(made.manifest))
    return [
        Line("created"),
        *(_verbatim(str(path)) for path in made.files),
        Line("next"),
        _verbatim(f"thothy-batch plan {manifest}"),
        _verbatim(f"thothy-batch run {manifest}"),
        Line("every night (crontab -e)"),
        _verbatim(made.cron_line),
    ]


def _verbatim(text: str) -> Line:
    return Line(text, indent=2, is_verbatim=True)
