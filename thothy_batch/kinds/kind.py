"""A kind, checked and ready: how items become prompts and completions become artifacts.

Plain text and numbers, so that it travels to worker processes; templates are compiled where they
are rendered.
"""

from dataclasses import dataclass, field
from typing import Literal

EntryUnit = Literal["item", "target_lang", "group"]
OutputFormat = Literal["text", "lines", "sections"]
ParamType = Literal["int", "float", "str", "bool", "list"]  # list: of text
CheckAction = Literal["flag", "fail"]

# What templates see besides the declared fields of the item.
RESERVED = ("params", "items", "target_lang", "previous")


@dataclass(frozen=True, slots=True)
class Stage:
    """One request of a chain; its instruction is a template. Only `raw` has none."""

    name: str
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One parameter that a job or a row may set."""

    type: ParamType
    required: bool = False
    default: object = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a completion has to look like: text, lines (one per sample) or sections."""

    format: OutputFormat = "text"
    sections: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The output schema as request keys hash it."""
        return {"format": self.format, "sections": list(self.sections)}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind file after all its checks."""

    name: str
    content_hash: str  # of everything in the file but comments, layout and the description
    entry: EntryUnit
    stages: tuple[Stage, ...]
    description: str = ""
    version: int = 1
    fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    raw: bool = False
    system: str = ""
    document: str = ""
    output: Output = field(default_factory=Output)
    checks: dict[str, CheckAction] = field(default_factory=dict)  # by the name of the check
    params: dict[str, ParamSpec] = field(default_factory=dict)
    samples: str = ""  # the parameter that holds the number of samples; "": one sample
    sampling: dict[str, object] = field(default_factory=dict)  # the kind's defaults
    # At which greedy rows are drawn again when their answer was no good; None: they are not.
    retry_temperature: float | None = None
