"""Print an error once per job. Importing this module does not import torch.

If one rank fails, the others fail too, with a broken connection. Only the first rank to report prints.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vitas_ds.distributed import launcher
from vitas_ds.errors import UserError

FRESH = 10  # seconds

_claim: Path | None = None
_first: Callable[[], bool] | None = None


def share_claim(path: Path | None) -> None:
    """Let the rank that first creates ``path``, which all ranks see, be the only one to print."""
    global _claim
    _claim = path


def share_first(first: Callable[[], bool] | None) -> None:
    """Let ``first`` decide whether this rank prints, as long as no path is set; None: rank 0 prints."""
    global _first
    _first = first


def first_of_node() -> bool:
    """Return whether this rank is the first of its node to report: a node may fail alone, before the ranks meet."""
    own = f".vitas-{os.getuid()}-"
    folder = Path(tempfile.gettempdir())
    for path in folder.glob(f"{own}*"):  # one of an earlier job may have the same process id
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > FRESH:
                path.unlink()
    return _create(folder / f"{own}{os.environ.get('MASTER_PORT', '')}-{launcher.launcher_process()}")


def is_main() -> bool:
    """Return whether this is rank 0 according to the launcher."""
    try:
        return launcher.read().rank == 0
    except UserError:  # to be printed by rank 0, or by all ranks if the rank itself is malformed
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
        return rank == "0" or not rank.isdecimal()


def print_once(line: str) -> bool:
    """Print a line to stderr unless another rank printed one; return whether it was printed."""
    first = claim()
    if first:
        print_line(line)
    return first


def claim() -> bool:
    """Return whether this rank is the one to print."""
    if _claim is not None:
        return _create(_claim)
    return (_first or is_main)()


def print_line(line: str) -> None:
    """Print a line to stderr in one piece: several ranks share the terminal."""
    with suppress(OSError):  # the terminal is gone; the exit status still counts
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def shares_claim() -> bool:
    """Return whether the ranks share a file."""
    return _claim is not None


def claimed() -> bool:
    """Return whether a rank has printed its line."""
    return _claim is not None and _claim.exists()


def _create(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
    except OSError:  # disk full or folder removed: a line printed twice is better than none
        return True
