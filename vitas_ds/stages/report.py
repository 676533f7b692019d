"""Stage report: HTML pages about a run or two, and results in a few lines. It only reads what the stages left."""

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
    """Write ``report/index.html`` of the run, and print its results; ``to_wandb`` sends its record to W&B as well.

    Raises:
        UserError: there is no such run.
    """
    ranks = comm.init("cpu", config.run.timeout)
    if ranks.is_main:
        folder = run_of(config)
        write_text(folder.report, run_page.render(folder))
        print_summary(folder)
        if to_wandb:
            from vitas_ds.reports.wandb_upload import send

            send(config, folder)
    comm.barrier()


def compare(first: Config, second: Config) -> None:
    """Write the page that compares two runs into the first one's ``report/``.

    Raises:
        UserError: there is no such run, or both are the same.
    """
    ranks = comm.init("cpu", first.run.timeout)
    if ranks.is_main:
        one, two = run_of(first), run_of(second)
        if one.path.resolve() == two.path.resolve():
            raise UserError(f"{one.path}: a run is not compared with itself")
        text = comparison.render(one, two)
        path = one.comparison(two)
        write_text(path, text)
        names = comparison.names_of((one, two))
        lines = [("", *names), *comparison.results((one, two)), ("report", str(path), "")]
        print_columns(lines)
    comm.barrier()


def print_summary(run: RunDir) -> None:
    """What each stage found, and where its files lie."""
    print_columns([*run_page.headlines(run), ("report", "", str(run.report))])


def print_columns(lines: list[tuple[str, str, str]]) -> None:
    """Three columns of text."""
    widths = [max(len(line[i]) for line in lines if line[2] or i == 0) for i in (0, 1)]
    for stage, found, where in lines:
        print(f"{stage:<{widths[0]}}  {found:<{widths[1]}}  {where}".rstrip())


def find(word: str, overrides: list[str]) -> Config:
    """The configuration of a run that a person names: its folder, a recipe, or its name below ``run.dir``.

    Raises:
        UserError: it is none of these.
    """
    if RunDir(Path(word)).config.is_file():
        return _of_folder(Path(word), overrides)
    if (RECIPES / f"{word}.yaml").is_file() or Path(word).is_file():
        return load(word, overrides)
    runs = Path(next((w.partition("=")[2] for w in overrides if w.startswith("run.dir=")), Config().run.dir))
    if RunDir(runs / word).config.is_file():
        return _of_folder(runs / word, overrides)
    raise UserError(f"{word}: neither a run's folder, nor a recipe, nor the name of a run in {runs}/")


def _of_folder(folder: Path, overrides: list[str]) -> Config:
    """The run's own configuration, whatever folder it was written in."""
    read_config(RunDir(folder))  # one clear line if it is of another version
    found = load(str(folder / "config.yaml"), overrides)
    here = folder.resolve()
    place = folder.parent if folder.name == here.name else here.parent
    return found.model_copy(update={"run": found.run.model_copy(update={"dir": str(place), "name": here.name})})
