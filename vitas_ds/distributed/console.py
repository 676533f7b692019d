"""Print an error once per job. Importing this module does not import torch.

If one rank fails, the others fail too, with a broken connection. Only the first rank to report prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from vitas_ds.distributed import launcher
from vitas_ds.errors import UserError

_claim: Path | None = None


def share_claim(path: Path | None) -> None:
    """Let the rank that first creates ``path``, which all ranks see, be the only one to print; None: rank 0 prints."""
    global _claim
    _claim = path


def is_main() -> bool:
    """Return whether this is rank 0 according to the launcher."""
    try:
        return launcher.read().rank == 0
    except UserError:  # to be printed by rank 0, or by all ranks if the rank itself is malformed
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
        return rank == "0" or not rank.isdecimal()


def print_once(line: str) -> bool:
    """Print a line to stderr unless another rank printed one; return whether it was printed."""
    first = is_main() if _claim is None else claim()
    if first:
        print_line(line)
    return first


def claim() -> bool:
    """Return whether this rank is the first to report; True if the ranks share no file."""
    return _claim is None or _create(_claim)


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
