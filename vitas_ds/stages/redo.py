"""Run a stage again whose settings or inputs have changed (``--redo``): its old results are moved aside first.

A check that finds such results raises ``Stale``. This catches it, moves the results aside, and starts the stage again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from vitas_ds.distributed import comm, console
from vitas_ds.errors import Stale
from vitas_ds.run import lock
from vitas_ds.run.aside import ORDER, dependents, set_aside
from vitas_ds.run.run_dir import RunDir


def redoing(stage: str, run: Callable[[], None], check: Callable[[], None]) -> None:
    """Run a stage. Move results of this and later stages that do not fit aside, and print why. All ranks call it.

    Args:
        stage: The stage.
        run: Runs it.
        check: Checks the inputs that it needs to make its results again.

    Raises:
        Stale: The results are those of an earlier stage, which has to run again first.
    """
    locked = ""
    while (stale := _attempt(stage, run)) is not None:
        comm.barrier()  # all ranks have read the old files
        if locked != stale.run:  # look again once no other job can change the results
            comm.from_main(partial(lock.acquire, Path(stale.run), f"{stage} --redo"))
            locked = stale.run
            continue
        check()  # a wrong path must not cost the old results
        line = comm.from_main(partial(_move, stale))
        if console.is_main():
            print(line, flush=True)


def _attempt(stage: str, run: Callable[[], None]) -> Stale | None:
    """Run a stage; return the error if it or a later stage has outdated results."""
    try:
        run()
    except Stale as error:
        if ORDER.index(error.stage) < ORDER.index(stage):
            raise
        return error
    return None


def _move(stale: Stale) -> str:
    """Move the results aside. Return what to print."""
    run = RunDir(Path(stale.run))
    stages = dependents(run, stale.stage)
    old = set_aside(run, stages)
    if old is None:
        raise stale
    others = f" (with those of {', '.join(stages[1:])})" if stages[1:] else ""
    return f"{stale.stage}: {stale.reason}; running again, old results{others}: {old.path}"
