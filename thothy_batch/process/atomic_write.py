"""Atomic replacement of a file: a reader sees the old content or the new one, never a part."""

import os
import secrets
from pathlib import Path

from thothy_batch.testing import faults


def replace_file(path: Path, data: bytes, *, durable: bool = True, place: str = "file") -> None:
    """Write the whole file or leave the old one.

    `durable`: the new content survives a power cut once this returns. `place`: prefix of the fault
    points `.write`, `.rename` and `.renamed`. Raises OSError; no temporary file is left then.
    """
    # The name is random: two machines that share the folder may have processes of one pid.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # exclusive: follows no link planted under that name
            file.write(faults.cut(f"{place}.write", memoryview(data)))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        faults.at(f"{place}.rename")
        os.replace(temporary, path)
        faults.at(f"{place}.renamed")
        if durable:
            sync_folder(path.parent)
    except BaseException:  # a signal, too
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a synced file without a synced name can vanish."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
