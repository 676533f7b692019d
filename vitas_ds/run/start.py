"""Create or reopen the folder of a run."""

from __future__ import annotations

import os

from vitas_ds.config import RANDOM_IMAGES, Config, dump
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.config.parse import framed
from vitas_ds.distributed import comm, console
from vitas_ds.errors import UserError
from vitas_ds.errors.exits import DISK
from vitas_ds.run import lock
from vitas_ds.run.compatibility import check_same_recipe, describe, differences
from vitas_ds.run.files import write_json, write_text
from vitas_ds.run.manifest import gpu_of, read_starts, start_entry
from vitas_ds.run.run_dir import RunDir, read_config, run_of
from vitas_ds.run.summary import complete_summary

LONGEST = 3800  # bytes of the path of a run: a path has at most 4095, and files in it up to 250


def find_run(config: Config) -> RunDir:
    """Return the run folder; a stage calls this before it reads its inputs.

    It writes nothing but ``summary.json``, on rank 0, if a killed job has not.

    Raises:
        UserError: See ``check_same_recipe``; or the manifest is damaged.
    """
    run = run_of(config)
    check_same_recipe(config, run)
    read_starts(run)
    if console.is_main():
        complete_summary(run)
    return run


def open_run(config: Config, is_main: bool, *, stage: str = "", world_size: int = 1) -> RunDir:
    """Create or reopen the run folder, and lock it until the command ends (lock.py).

    Rank 0 writes ``config.yaml`` and adds an entry to ``manifest.json``. It prints the settings that differ from those
    of the latest start; the entry records them. If ``world_size`` is above 1, all ranks must call this.

    Raises:
        UserError: See ``check_same_recipe``; another job uses the folder; or it is not writable.
    """
    run = find_run(config)
    if world_size > 1:
        comm.from_main(lambda: _lock(run, stage))
    elif is_main:
        _lock(run, stage)
    find_run(config)  # the job that had the lock may have changed its settings
    if is_main:
        try:
            changes = differences(read_config(run), config) if run.config.exists() else {}
            if changes:
                since = f"settings changed since the last start of {run.path}"
                print(f"{stage or run.name}: {since}: {', '.join(describe(changes))}", flush=True)
            write_text(run.config, framed(dump(with_absolute_paths(config))))
            starts = read_starts(run)
            entry = start_entry(stage, world_size) | {"changes": changes}
            entry["machine"] |= gpu_of(config.run.device)
            entry |= {"images": RANDOM_IMAGES} if config.data.synthetic else {}
            write_json(run.manifest, {"run": run.name, "starts": [*starts, entry]})
        except OSError as error:
            raise _not_writable(run, error) from None
    return run


def _lock(run: RunDir, stage: str) -> None:
    length = len(os.fsencode(run.path.absolute()))
    if length > LONGEST:
        raise UserError(f"run.dir: {run.path} is too long for the files in it ({length} bytes, at most {LONGEST})")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(run.path, stage)
        for old in (run.total, *run.life.glob("rank-*.json")):  # of the last start
            old.unlink(missing_ok=True)
        folder = {"train-supernet": run.supernet.path, "search": run.search, "retrain": run.retrain.path}.get(stage)
        for leftover in folder.glob(".*.tmp") if folder else ():  # of a killed job; weights are large
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(run, error) from None


def _not_writable(run: RunDir, error: OSError) -> Exception:
    return error if error.errno in DISK else UserError(f"run.dir: {run.path} cannot be written ({error.strerror})")
