"""A lock on the folder of a study."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitas_ds.errors import UserError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other processes. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another start is running in this folder") from None
        yield
