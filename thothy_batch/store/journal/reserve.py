"""Space on the disk that a run holds back, to record its end where the disk is full."""

import contextlib
import os
from pathlib import Path

# A second of a run's rows and its end, the status file and the metrics file.
_NUM_BYTES = 2**20


class Reserve:
    """A file without content. A killed run leaves it to `files.remove_temporary`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve.tmp"

    def take(self) -> None:
        """Allocate the space. A disk that has not so much left costs the reserve, not the run."""
        try:
            with open(self._path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, _NUM_BYTES)
        except OSError:
            self.release()

    def release(self) -> None:
        """Give the space back."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
