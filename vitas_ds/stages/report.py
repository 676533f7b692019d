"""Stage report: write the HTML page of a run or of two runs, and print the results. It reads files only."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.distributed import comm
from vitas_ds.errors import UserError
from vitas_ds.recipe import RECIPES, load
from vitas_ds.reports import comparison, run_page
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir, read_config, run_of


def run(config: Config, to_wandb: bool = False) -> None:
    """Write ``report/index.html`` of the run and print its results.

    Args:
        config: Configuration of the run.
        to_wandb: Upload the record of the run to W&B as well.

    Raises:
        UserError: The run does not exist.
    """
    ranks = comm.init("cpu", config.run.timeout)
    if ranks.is_main:
        run_dir = run_of(config)
        write_text(run_dir.report, run_page.render(run_dir))
        print_columns([*run_page.headlines(run_dir), ("report", "", str(run_dir.report))])
        if to_wandb:
            from vitas_ds.reports.wandb_upload import send

            send(config, run_dir)
    comm.barrier()


def compare(first: Config, second: Config) -> None:
    """Write the page that compares two runs to the ``report/`` folder of the first one.

    Raises:
        UserError: A run does not exist, or both are the same.
    """
    ranks = comm.init("cpu", first.run.timeout)
    if ranks.is_main:
        one, two = run_of(first), run_of(second)
        if one.path.resolve() == two.path.resolve():
            raise UserError(f"{one.path}: given twice; give two different runs to compare")
        path = one.comparison(two)
        write_text(path, comparison.render(one, two))
        names = comparison.names_of((one, two))
        print_columns([("", *names), *comparison.results((one, two)), ("report", str(path), "")])
    comm.barrier()


def print_columns(lines: list[tuple[str, str, str]]) -> None:
    """Print three aligned columns."""
    widths = [max(len(line[i]) for line in lines if line[2] or i == 0) for i in (0, 1)]
    for first, second, third in lines:
        print(f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third}".rstrip())


def find(run: str, overrides: list[str]) -> Config:
    """Return the configuration of a run, given as its folder, its recipe, or its name below ``run.dir``.

    Raises:
        UserError: The run does not exist.
    """
    if (Path(run) / "config.yaml").is_file():
        return _from_folder(Path(run), overrides)
    if (RECIPES / f"{run}.yaml").is_file() or Path(run).is_file():
        return load(run, overrides)
    runs = Path(next((w.partition("=")[2] for w in overrides if w.startswith("run.dir=")), Config().run.dir))
    if (runs / run / "config.yaml").is_file():
        return _from_folder(runs / run, overrides)
    raise UserError(f"{run}: no such run folder, recipe, or run in {runs}/")


def _from_folder(folder: Path, overrides: list[str]) -> Config:
    """Return the configuration in a run folder, with name and place of the folder as it is now."""
    read_config(RunDir(folder))  # raises a short error if another version wrote the file
    config = load(str(folder / "config.yaml"), overrides)
    resolved = folder.resolve()
    parent = folder.parent if folder.name == resolved.name else resolved.parent
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": str(parent), "name": resolved.name})})
