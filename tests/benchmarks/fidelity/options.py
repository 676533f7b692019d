"""Options of the commands of studies."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the overrides, and the options of the workers and of the files.

    Args:
        parser: Parser of the command.
        out: Default folder.
    """
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for images and unfinished work")
    parser.add_argument("--record", type=Path, help="file of the finished jobs (default: record.jsonl below --out)")
