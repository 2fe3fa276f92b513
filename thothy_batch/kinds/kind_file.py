"""The keys of a kind file: types, defaults and bounds. Relations between keys: validation.py."""

from typing import Annotated, Literal

from thothy_batch.choices import MAX_COUNT, SAMPLING_BOUNDS
from thothy_batch.kinds.kind import CheckAction, EntryUnit, OutputFormat, ParamType
from thothy_batch.yaml_source import Field, StrictModel

_WITHIN = {name: Field(**bounds.as_field()) for name, bounds in SAMPLING_BOUNDS.items()}


class SamplingDefaults(StrictModel):
    """Sampling settings used where a job sets none."""

    temperature: Annotated[float | None, _WITHIN["temperature"]] = None
    top_p: Annotated[float | None, _WITHIN["top_p"]] = None
    top_k: Annotated[int | None, _WITHIN["top_k"]] = None
    max_tokens: Annotated[int | None, _WITHIN["max_tokens"]] = None
    stop: list[str] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, le=MAX_COUNT)]] | None = None
    ignore_eos: bool | None = None
    repetition_penalty: Annotated[float | None, _WITHIN["repetition_penalty"]] = None
    repetition_stop: Literal["auto", True, False] | None = None


class ParamFile(StrictModel):
    """One parameter: type, default (none: the job must set it) and bounds."""

    type: ParamType
    default: int | float | str | bool | list[str] | None = None
    min: int | float | None = None
    max: int | float | None = None


class StageFile(StrictModel):
    """One request of a chain."""

    name: str = Field(min_length=1)
    instruction: str = ""


class OutputFile(StrictModel):
    """The format of a completion."""

    format: OutputFormat = "text"
    sections: list[str] = Field(default_factory=list)


class ChecksFile(StrictModel):
    """The checks to apply; a finding flags the artifact or fails the entry."""

    empty: CheckAction | None = None
    cut_off: CheckAction | None = None
    repetition: CheckAction | None = None
    copied_prompt: CheckAction | None = None
    one_line: CheckAction | None = None
    count: CheckAction | None = None
    sections: CheckAction | None = None


class KindFile(StrictModel):
    """A kind file as it is written."""

    kind: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    version: int = Field(default=1, ge=1)
    description: str = ""
    entry: EntryUnit = "item"
    fields: list[str] = Field(default_factory=list)
    optional_fields: list[str] = Field(default_factory=list)
    params: dict[str, ParamFile] = Field(default_factory=dict)
    samples: str = ""
    sampling: SamplingDefaults = SamplingDefaults()
    retry_temperature: float | None = Field(default=None, gt=0)
    raw: bool = False
    system: str = ""
    document: str = ""
    stages: list[StageFile] = Field(min_length=1)
    output: OutputFile = OutputFile()
    checks: ChecksFile = ChecksFile()
