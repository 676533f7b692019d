"""Print the state of a run, once or until its stage ends."""

from __future__ import annotations

import argparse
import shlex
import time

from vitas_ds.errors import printable
from vitas_ds.recipe import find_run_folder, load
from vitas_ds.run.metrics import SHOWN, clock
from vitas_ds.run.overview import Overview, format_size, last_record, overview
from vitas_ds.run.run_dir import RunDir, run_of

EVERY = 2.0  # seconds between two looks of --follow


def run(args: argparse.Namespace) -> int:
    """Print the state of a run; with ``--follow``, a line per change until the stage ends."""
    run_dir = find(args.run)
    found = overview(run_dir)
    for line in lines(run_dir, found):
        print(printable(line), flush=True)
    while args.follow and found.state == "running":
        time.sleep(EVERY)
        before, found = found, overview(run_dir)
        if (found.stage, found.step, found.state) != (before.stage, before.step, before.state):
            print(printable(progress(found)), flush=True)
    return 0


def find(word: str) -> RunDir:
    """Return the run with this folder, name or recipe."""
    folder = find_run_folder(word, [])
    return run_of(load(word, [])) if folder is None else RunDir(folder)


def lines(run: RunDir, found: Overview) -> list[str]:
    """Return the state of a run as lines."""
    texts = [f"{run.path}: {format_size(found.size)}", progress(found)]
    if found.reason:
        texts.append(f"failed: {found.reason}")
    if found.best is not None:
        texts.append(f"best candidate: search score {found.best:.2%}")
    measured = last_record(run, found.stage, evaluation=True)
    if found.stage == "retrain" and "top1" in measured:
        texts.append(f"top-1 on held-out images after step {measured['step']}: {measured['top1']:.2%}")
    if found.top1 is not None:
        older = ", of the best network of an earlier search; start retrain" if found.older else ""
        texts.append(f"top-1 on val: {found.top1:.2%}{older}")
    if found.state in ("stopped", "failed") and found.stage:
        texts.append(f"to resume: vitas {shlex.join([found.stage, str(run.path)])}")
    return texts


def progress(found: Overview) -> str:
    """Return one line: stage, state, progress, last values, remaining time of the stage and of all stages."""
    values = [show(found.last[name]) for name, show in SHOWN.items() if found.last.get(name) is not None]
    left = [] if found.left is None else [f"ETA {clock(found.left)}"]
    left += [] if found.run_left is None else [f"all stages about {clock(found.run_left)}"]
    return "  ".join(filter(None, [found.stage or "not started", found.state, found.progress, *values, *left]))
