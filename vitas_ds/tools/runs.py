"""List the runs in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.errors import UserError, printable
from vitas_ds.run.overview import format_size, overview
from vitas_ds.run.run_dir import RunDir

HEADER = ("run", "stage", "progress", "best", "top-1", "disk", "")


def run(args: argparse.Namespace) -> int:
    """Print a table of the runs in a folder, the latest last."""
    folder = Path(args.folder or Config().run.dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the runs (run.dir)")
    found = [RunDir(path.parent) for path in folder.glob("*/config.yaml")]
    found.sort(key=lambda run: (run.config.stat().st_mtime, run.name))
    rows = [HEADER, *(tuple(map(printable, row(run))) for run in found)]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEADER))]
    for cells in rows if found else ():
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    if not found:
        print(f"{folder}: no runs")
    return 0


def row(run: RunDir) -> tuple[str, ...]:
    """Return the row of a run; a run that cannot be read says why."""
    try:
        found = overview(run)
    except UserError as error:
        return run.name, "", "", "", "", "", str(error)[:100]
    best, top1 = (("" if value is None else f"{value:.1%}") for value in (found.best, found.top1))
    top1 += " (earlier search)" if found.older else ""
    return run.name, found.stage, found.progress, best, top1, format_size(found.size), found.state
