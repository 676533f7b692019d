"""Remove the files of a run not needed by later stages: checkpoints of finished trainings, states, decoded images."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vitas_ds.errors import UserError, printable
from vitas_ds.run import lock
from vitas_ds.run.overview import folder_size, format_size, overview
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import read_summary
from vitas_ds.search.ended import has_ended
from vitas_ds.tools.status import find
from vitas_ds.training import checkpoint_files

STEPS = "step-[0-9]*"


def run(args: argparse.Namespace) -> int:
    """List the files to remove, ask, and remove them. Weights, models, scores and reports stay."""
    run_dir = find(args.run)
    if overview(run_dir).state == "running":
        raise UserError(f"{run_dir.path}: is running; stop it, or wait until its stage has ended")
    found = list(removable(run_dir, args.keep == "best"))
    paths = [path for path in found if not _is_linked(path, run_dir)]
    if linked := [path for path in found if path not in paths]:
        first = printable(str(linked[0]))
        print(f"{run_dir.path}: kept {len(linked)} paths behind links, such as {first}: another run may need them")
    if not paths:
        print(f"{run_dir.path}: nothing to remove")
        return 0
    sizes = [folder_size(path) if path.is_dir() else path.lstat().st_size for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        print(f"{format_size(size):>8}  {printable(str(path))}")
    if not args.yes and not _confirmed(f"remove {len(paths)} paths, {format_size(sum(sizes))}? [y/N] "):
        print("nothing removed")
        return 0
    lock.acquire(run_dir.path, "clean")
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    print(f"{run_dir.path}: removed {format_size(sum(sizes))}")
    return 0


def removable(run: RunDir, keep_best: bool) -> Iterator[Path]:
    """Yield the paths not needed by later stages. Only paths written by stages are considered.

    An unfinished training keeps all its checkpoints: it resumes from one.
    """
    for stage, weights in ((run.supernet, run.supernet_weights), (run.retrain, run.retrain_weights)):
        if weights.is_file():
            steps = sorted(stage.checkpoints.glob(STEPS))
            best = checkpoint_files.best(stage.checkpoints) if keep_best else None
            yield from (path for path in steps if path != best and (path / "manifest.json").is_file())
            if (divergence := stage.path / "divergence").exists():  # before, --replay of the divergence needs it
                yield divergence
        if stage.trace.exists():
            yield stage.trace
    if run.best.is_file():
        if has_ended(read_config(run).search, read_summary(run).get("search", {})):
            yield from (path for path in (run.finalist_states, run.check_states) if path.is_dir())
        yield from sorted((*run.search.glob("images-*.u8"), *run.search.glob("images-*.sha256")))


def _is_linked(path: Path, run: RunDir) -> bool:
    """Return whether a link inside the run leads to a path, which may be that of another run."""
    return os.path.realpath(path) != os.path.join(os.path.realpath(run.path), path.relative_to(run.path))


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("cannot ask on this terminal; add --yes to remove the files")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False
