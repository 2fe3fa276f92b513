"""Where the packaged data lies: built-in kinds, the embedded model, the sample night."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def data_path(name: str) -> Path:
    """The folder `jobs` or `sample_data`: package data in a wheel, the top level in a checkout."""
    packaged = _HERE / f"_{name}"
    return packaged if packaged.is_dir() else _HERE.parent / name
