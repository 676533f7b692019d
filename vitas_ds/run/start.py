"""Create or reopen the folder of a run."""

from __future__ import annotations

from vitas_ds.config import Config, dump
from vitas_ds.errors import UserError
from vitas_ds.run.compatibility import check_same_recipe
from vitas_ds.run.files import read_json, write_json, write_text
from vitas_ds.run.manifest import start_entry
from vitas_ds.run.run_dir import RunDir, run_of


def find_run(config: Config) -> RunDir:
    """The run's folder for a stage that has yet to read its inputs; writes nothing. Raises as ``open_run`` does."""
    run = run_of(config)
    check_same_recipe(config, run)
    return run


def open_run(config: Config, ranks_main: bool, *, stage: str = "", world_size: int = 1) -> RunDir:
    """Create the run's folder or open it again; rank 0 writes ``config.yaml`` and an entry of ``manifest.json``.

    Raises:
        UserError: the folder holds a run whose recipe differs in what matters (the line names the first such field),
            or is no run's folder, or cannot be written. Nothing is overwritten then.
    """
    run = run_of(config)
    check_same_recipe(config, run)
    if ranks_main:
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_text(run.config, dump(config))
            starts = read_json(run.manifest, {}).get("starts", [])
            write_json(run.manifest, {"run": run.name, "starts": [*starts, start_entry(stage, world_size)]})
        except OSError as error:
            raise UserError(f"run.dir: {run.path} cannot be written ({error.strerror})") from None
    return run
