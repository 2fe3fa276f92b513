"""Creates a working example: a manifest with its JSON Schema, sample rows, a cron line."""

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from thothy_batch.errors import ManifestError
from thothy_batch.manifest import first_rows, json_schema
from thothy_batch.resources import data_path

_SAMPLE = "products.parquet"
_NUM_ROWS = 20  # the bad ones, which the sample night shows, come after them
_SCHEMA = "manifest.schema.json"
_MANIFEST = """\
# yaml-language-server: $schema=manifest.schema.json
# A first manifest. Check it, then run it:
#   thothy-batch plan manifest.yaml
#   thothy-batch run manifest.yaml
store: artifacts.duckdb
# The embedded model needs no download and knows little. For real work name one from the hub:
# model:
#   id: Qwen/Qwen3-4B-Instruct-2507
run:
  grace: 30s
jobs:
  - name: product-summaries
    kind: summary                    # or hook, translation, report, raw, path/to/kind.yaml
    input: products.parquet          # or a glob of your own Parquet files
    columns: {id: sku, text: body}   # our name: their name
    params: {max_words: 60, language: en}
    sampling: {temperature: 0.0, max_tokens: 120}
"""


@dataclass(frozen=True, slots=True)
class InitResult:
    """The files created, and the line for the user's crontab."""

    files: tuple[Path, ...]
    manifest: Path
    cron_line: str


def init_folder(folder: Path) -> InitResult:
    """Writes the example into a folder and overwrites nothing. Raises ManifestError."""
    folder = folder.expanduser().absolute()
    names = ("manifest.yaml", _SAMPLE, _SCHEMA, "crontab.txt")
    existing = [name for name in names if os.path.lexists(folder / name)]
    if existing:
        raise ManifestError(
            f"{folder / existing[0]} exists already; nothing was written",
            hint="choose a new folder",
        )
    line = _cron_line(folder)
    sample = first_rows(data_path("sample_data") / _SAMPLE, _NUM_ROWS)
    schema = json.dumps(json_schema(), indent=1) + "\n"
    contents = (_MANIFEST.encode(), sample, schema.encode(), line.encode() + b"\n")
    try:
        _write_all(folder, dict(zip(names, contents, strict=True)))
    except OSError as error:
        raise ManifestError(
            f"cannot write into {folder}: {error.strerror or error}", hint="choose another folder"
        ) from error
    return InitResult(tuple(folder / name for name in names), folder / "manifest.yaml", line)


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Writes every file, each of them new, or none."""
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in files.items():
            with open(folder / name, "xb") as file:
                written.append(folder / name)
                file.write(content)
    except BaseException:  # an interrupt too
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _cron_line(folder: Path) -> str:
    """cron knows neither PATH nor locale nor folder; % ends a command there."""
    where, programs = (shlex.quote(str(path)) for path in (folder, Path(sys.executable).parent))
    command = (
        f"cd {where} && PATH={programs}:/usr/bin:/bin LC_ALL=C.UTF-8 "
        "thothy-batch run manifest.yaml --if-locked skip --deadline 06:00 >> night.log 2>&1"
    )
    return "30 22 * * * " + command.replace("%", "\\%")
