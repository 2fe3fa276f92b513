"""The keys of a kind file: types, defaults and bounds. Relations between keys: validation.py."""

from typing import Literal

from thothy_batch.yaml_source import Field, StrictModel

CheckAction = Literal["flag", "fail"]
ParamType = Literal["int", "float", "str", "bool", "list"]


class SamplingDefaults(StrictModel):
    """Sampling settings used where a job sets none."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | None = Field(default=None)
    ignore_eos: bool | None = None
    repetition_penalty: float | None = Field(default=None, gt=0)
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

    format: Literal["text", "lines", "sections"] = "text"
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
    entry: Literal["item", "target_lang", "group"] = "item"
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
