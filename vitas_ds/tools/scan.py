"""``vitas scan``: list the unreadable images of a folder before training meets them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vitas_ds.data.scan import scan
from vitas_ds.data.sources import write_list
from vitas_ds.errors import UserError, printable
from vitas_ds.tools.progress import Progress


def run(args: argparse.Namespace) -> int:
    """Run ``vitas scan DATA``: print ``path: reason`` for each unreadable image; return 1 if there are any."""
    return run_scan(args.data, args.threads, args.decode, args.write)


def run_scan(data: Path, threads: int = 0, decode: bool = False, write: Path | None = None) -> int:
    """Scan ``data``, print the unreadable images, and list them in ``write``, which ``data.exclude`` reads.

    Raises:
        UserError: The folder does not exist or has no images, or the list cannot be written.
    """
    if write:
        _check_writable(write)
    progress = Progress("scan")
    bad = scan(data, threads, decode, progress.show)
    for path, reason in bad:
        print(f"{printable(os.fsencode(path).decode(errors='replace'))}: {printable(reason)}")
    print(f"scan: {len(bad)} of {progress.files} images cannot be read", file=sys.stderr)
    if write:
        try:
            write_list([path for path, _ in bad], write)
        except OSError as error:
            raise UserError(f"--write {write}: {error.strerror}") from None
    return 1 if bad else 0


def _check_writable(path: Path) -> None:
    """Create the folder of the list, and check before a long scan that the list can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_place = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in the place of its folder" if in_place else error.strerror
        raise UserError(f"--write {path}: {reason}") from None
    if path.is_dir():
        raise UserError(f"--write {path}: is a folder; give a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--write {path}: no permission to write")
