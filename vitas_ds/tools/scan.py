"""``scan``: name every image of a folder that cannot be read, before a training meets it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from vitas_ds.data.scan import scan
from vitas_ds.data.sources import write_list
from vitas_ds.errors import UserError

EVERY = 30  # seconds between lines of progress in a log


def run(args: argparse.Namespace) -> int:
    """``vitas scan DATA``: a line ``path: reason`` for each bad image; 1 if there is one."""
    return run_scan(args.data, args.threads, args.decode, args.write)


def run_scan(data: Path, threads: int = 0, decode: bool = False, write: Path | None = None) -> int:
    """Scan ``data``, print what is bad, and write the list that ``data.exclude`` reads to ``write``.

    Raises:
        UserError: no such folder, no images in it, or the list cannot be written.
    """
    total, told = 0, time.monotonic()

    def progress(done: int, files: int) -> None:
        nonlocal total, told
        total = files
        if sys.stderr.isatty():
            bar = "#" * (30 * done // files)
            print(f"\rscan [{bar:30}] {done} of {files}", end="\n" if done == files else "", file=sys.stderr)
        elif time.monotonic() - told > EVERY:
            told = time.monotonic()
            print(f"scan: {done} of {files}", file=sys.stderr, flush=True)

    bad = scan(data, threads, decode, progress)
    for path, reason in bad:
        print(f"{os.fsencode(path).decode(errors='replace')}: {reason}")
    print(f"scan: {len(bad)} of {total} images cannot be read", file=sys.stderr)
    if write:
        try:
            write_list([path for path, _ in bad], write)
        except OSError as error:
            raise UserError(f"--write {write}: {error.strerror}") from None
    return 1 if bad else 0
