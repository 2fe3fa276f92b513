"""Downloads the weights of a hub model in a process of its own, which a stop ends at any moment.

The hub client waits for its threads, however long they wait for the network. What was fetched
stays in its cache, and the next download goes on there.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.locate import locate_model, weights_size
from thothy_batch.process import end_with_parent, spawned
from thothy_batch.records import ModelSpec

_LOOK_S = 1.0  # between two reports of the bytes so far


def download_weights(spec: ModelSpec, phase: Callable[[str], None]) -> None:
    """Fetch what is missing of a hub model's files. `phase` is told how far it is.

    Raises ModelError as `locate_model` does.
    """
    with spawned(_serve, spec) as connection:
        error = _watch(connection, spec, phase)
    if error is not None:
        raise ModelError(error[0], hint=error[1])


def _watch(
    connection: Connection, spec: ModelSpec, phase: Callable[[str], None]
) -> tuple[str, str] | None:
    """Report the bytes so far until the child has ended; return the error that it met."""
    folder: Path | None = None
    num_bytes: int | None = None
    phase(f"downloading {spec.id}")
    while True:
        if not connection.poll(_LOOK_S):
            if folder is not None:
                phase(f"downloading {spec.id}: {_so_far(folder, num_bytes)}")
            continue
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            return f"model {spec.id!r}: the process that downloads it ended", "run it again"
        if kind == "size":
            folder, num_bytes = content
        else:
            return content  # type: ignore[no-any-return]


def _so_far(folder: Path, num_bytes: int | None) -> str:
    """The bytes in the folder of a model's files, and of how many."""
    found = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found += path.stat().st_size
    if num_bytes is None:
        return f"{found / 1e6:,.0f} MB so far"
    return f"{min(found, num_bytes) / 1e6:,.0f} of {num_bytes / 1e6:,.0f} MB"


def _serve(connection: Connection, spec: ModelSpec) -> None:
    """Run in the child: send ("size", (folder, bytes)), last ("end", None) or ("end", error)."""
    end_with_parent()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the parent tells how far it is, or nothing
    error: tuple[str, str] | None = None
    try:
        connection.send(("size", weights_size(spec)))
        locate_model(spec)
    except ModelError as caught:
        error = (caught.message, caught.hint)
    except Exception as caught:  # any error: the parent words it for the user
        error = (f"model {spec.id!r} could not be downloaded: {caught}", "run it again")
    with suppress(BrokenPipeError):
        connection.send(("end", error))
