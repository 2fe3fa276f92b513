"""Reads YAML 1.2 text into plain values with line numbers."""

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.yaml_source.building import build_values
from thothy_batch.yaml_source.located import Located
from thothy_batch.yaml_source.syntax import UnsupportedYamlError, YamlError, read_document
from thothy_batch.yaml_source.variables import Variables

# Reading takes about a second for each MB in the worst case.
_MAX_BYTES = 16 << 20
# Lines are counted from the nearest multiple of this many characters.
_STRIDE = 2048


def load_yaml(path: Path, variables: Variables | None = None) -> Located:
    """Read a YAML file. `variables` stand in its text values; None: `${` is text like any other.

    Raises ManifestError if it cannot be read or is not YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ManifestError([Problem(f"cannot be read: {why}", path=str(path))]) from error
    if len(raw) > _MAX_BYTES:
        hint = "a manifest names its data (Parquet, SQL), it does not hold them"
        message = f"is larger than {_MAX_BYTES >> 20} MiB: too large for a YAML file"
        raise ManifestError([Problem(message, str(path), hint=hint)])
    # YAML has the rule of JSON: the first bytes tell UTF-8, UTF-16 and UTF-32 apart.
    encoding = json.detect_encoding(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        name = encoding.upper().removesuffix("-SIG")
        problem = Problem(f"is not {name} text", str(path), line, "save the file as UTF-8")
        raise ManifestError([problem]) from error
    return parse_yaml(text, path, variables)


def parse_yaml(text: str, path: str | Path = "", variables: Variables | None = None) -> Located:
    """Parse one YAML document, with `variables` as `load_yaml`.

    Raises ManifestError, with the line, on anything else.
    """
    text = text.removeprefix("\ufeff")
    source = text.replace("\r\n", "\n").replace("\r", "\n")
    line_at = _line_counter(source)
    try:
        root = read_document(source, has_variables=variables is not None)
        return build_values(root, str(path), line_at, source, variables)
    except YamlError as error:
        is_valid = isinstance(error, UnsupportedYamlError)
        message = error.message if is_valid else f"not valid YAML: {error.message}"
        problem = Problem(message, str(path), line_at(error.index), error.hint)
    raise ManifestError([problem])


def _line_counter(text: str) -> Callable[[int], int]:
    """Return a function from index to line, counted from 1; all lines end with `\\n`."""
    counts = (text.count("\n", begin, begin + _STRIDE) for begin in range(0, len(text), _STRIDE))
    lines = list(accumulate(counts, initial=1))

    def line_at(index: int) -> int:
        stride = index // _STRIDE
        return lines[stride] + text.count("\n", stride * _STRIDE, index)

    return line_at
