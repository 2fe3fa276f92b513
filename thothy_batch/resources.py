"""Locations of packaged data: built-in kinds, the embedded model, the sample run."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def data_path(name: str) -> Path:
    """Returns the folder `jobs` or `sample_data`, of a wheel or of a checkout."""
    packaged = _HERE / f"_{name}"
    return packaged if packaged.is_dir() else _HERE.parent / name
