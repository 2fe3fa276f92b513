"""The inputs of a job: Parquet files, SQL, or a Parquet job manifest."""

from typing import Annotated

from thothy_batch.manifest.values import TEXT_OR_TEXTS, NonEmpty, Texts
from thothy_batch.yaml_source import (
    Discriminator,
    Field,
    StrictModel,
    Tag,
    WithJsonSchema,
    model_validator,
)


class FileInput(StrictModel):
    """Parquet files: globs, files or directories, including hive folders."""

    patterns: Texts = Field(description="Globs, relative to the manifest.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str | list):
            raise ValueError(f"must be a glob, a list of globs or {{sql: ...}}, found {value!r}")
        return {"patterns": value}


class SqlInput(StrictModel):
    """One SELECT over files, run in an empty DuckDB."""

    sql: NonEmpty = Field(description="One SELECT; paths are relative to the manifest.")


class JobRowsInput(StrictModel):
    """The rows of one job in a Parquet job manifest. Created by the program only."""

    parquet: list[str] = Field(description="The files of the job manifest, absolute.")
    row_groups: list[list[int]] = Field(
        description="Per file, the row groups that hold rows of the job.", exclude=True
    )
    states: list[tuple[int, int, int, int] | None] = Field(
        description="Per file, how it was when its jobs were found.", exclude=True
    )


class JobFileSettings(StrictModel):
    """Jobs defined by Parquet files, one row per item."""

    parquet: Texts = Field(description="Globs of job manifests, relative to this file.")


def _input_shape(value: object) -> str:
    if isinstance(value, JobRowsInput):
        return "rows"
    return "sql" if isinstance(value, dict | SqlInput) else "files"


InputSettings = Annotated[
    Annotated[FileInput, Tag("files"), WithJsonSchema(TEXT_OR_TEXTS)]
    | Annotated[SqlInput, Tag("sql")]
    | Annotated[JobRowsInput, Tag("rows"), WithJsonSchema({"not": {}})],
    Discriminator(_input_shape),
]
