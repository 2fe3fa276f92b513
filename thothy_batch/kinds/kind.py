"""A validated kind: how items become prompts and completions become artifacts.

A kind holds plain text and numbers, so it can be sent to worker processes; templates are compiled
where they are rendered.
"""

from dataclasses import dataclass, field
from typing import Literal

EntryUnit = Literal["item", "target_lang", "group"]
OutputFormat = Literal["text", "lines", "sections"]
ParamType = Literal["int", "float", "str", "bool", "list"]  # list: of text
CheckAction = Literal["flag", "fail"]

# Names that templates see beside the declared fields of the item.
RESERVED = ("params", "items", "target_lang", "previous")


@dataclass(frozen=True, slots=True)
class Stage:
    """One request of a chain; its instruction is a template. Only `raw` has no instruction."""

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
    """The format of a completion: text, lines (one per sample) or sections."""

    format: OutputFormat = "text"
    sections: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the output format as request keys hash it."""
        return {"format": self.format, "sections": list(self.sections)}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind file after validation."""

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
    # Temperature of the retry of a greedy request whose completion failed its checks; None: no
    # retry.
    retry_temperature: float | None = None
