"""Stage report: write the HTML page of a run or of several runs, and print the results.

It reads files only, and rank 0 does all of it. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.distributed import launcher
from vitas_ds.errors import UserError, printable
from vitas_ds.errors.reading import as_written
from vitas_ds.recipe import RUN_CONFIG, load
from vitas_ds.reports import comparison, nets, run_page
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import read_config, run_of
from vitas_ds.run.summary import complete_summary


def run(config: Config, to_wandb: bool = False) -> None:
    """Write ``report/index.html`` of the run and print its results.

    Args:
        config: Configuration of the run.
        to_wandb: Upload the record of the run to W&B as well.

    Raises:
        UserError: The run does not exist.
    """
    if launcher.read().rank:
        return
    run_dir = run_of(config)
    complete_summary(run_dir)
    with as_written():
        write_text(run_dir.report, run_page.render(run_dir))
        nets.write_baseline(run_dir, read_config(run_dir))
        print_columns([*run_page.headlines(run_dir), ("report", "", str(run_dir.report))])
    if to_wandb:
        from vitas_ds.reports.wandb_upload import send

        send(config, run_dir)


def compare(*configs: Config) -> None:
    """Write the page that compares runs to the ``report/`` folder of the first one.

    Raises:
        UserError: A run does not exist, or is given twice.
    """
    if launcher.read().rank:
        return
    runs = [run_of(config) for config in configs]
    places = [run.path.resolve() for run in runs]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UserError(f"{runs[i].path}: given twice; give two different runs to compare")
    path = runs[0].comparison(*runs[1:])
    with as_written():
        write_text(path, comparison.render(*runs))
        print_columns([("", *comparison.names_of(runs)), *comparison.results(runs), ("report", str(path), "")])


def print_columns(lines: Sequence[tuple[str, ...]]) -> None:
    """Print aligned columns. The last non-empty cell of a line may be longer than its column."""
    count = max(map(len, lines))
    rows = [(*map(printable, line), *[""] * (count - len(line))) for line in lines]
    widths = [max(len(row[i]) for row in rows if any(row[i + 1 :]) or i == 0) for i in range(count - 1)]
    for row in rows:
        print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def find(run: str, overrides: list[str]) -> Config:
    """Return the configuration of a run, given as its folder, its recipe, or its name below ``run.dir``.

    A folder comes before a recipe of the same name.

    Raises:
        UserError: The run does not exist.
    """
    return load(f"./{run}" if (Path(run) / RUN_CONFIG).is_file() and Path(run).name == run else run, overrides)
