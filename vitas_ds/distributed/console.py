"""One line for the whole job: of all ranks that have to report a failure, the first is heard and the others keep still.

A failure often strikes one rank, and the others learn of it as a broken connection. No torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_floor: Path | None = None


def share(floor: Path | None) -> None:
    """Take turns by means of a file that all ranks see and none has made yet; None: rank 0 speaks, no other."""
    global _floor
    _floor = floor


def is_main() -> bool:
    """Whether this is rank 0, as the launcher says."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def say(line: str) -> bool:
    """Print a line to stderr if no rank has spoken before; whether it was printed."""
    heard = is_main() if _floor is None else _take(_floor)
    if heard:
        print(line, file=sys.stderr, flush=True)
    return heard


def _take(floor: Path) -> bool:
    try:
        os.close(os.open(floor, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
    except OSError:  # the disk is full, the folder is gone: rather twice than never
        return True
