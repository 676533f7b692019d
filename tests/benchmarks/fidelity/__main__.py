"""Compare the ranking of subnets by supernets with the ranking by their own training, on any ImageFolder.

    python -m tests.benchmarks.fidelity RECIPE truth               train subnets alone: the truth
    python -m tests.benchmarks.fidelity RECIPE report --docs DIR   write the results so far, with figures

RECIPE is tests/benchmarks/fidelity/cifar10.yaml for the study of docs/cifar10.md, or any other recipe. Everything is
taken from it, with overrides like those of a stage, such as data.train=DIR data.val=DIR. A second start resumes:
finished jobs are in the record, and unfinished trainings go on from their last minute.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fidelity import document, jobs, lock, study, working
from tests.benchmarks.fidelity.options import add_options
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.timing import where
from vitas_ds import recipe
from vitas_ds.errors import UserError
from vitas_ds.run.metrics import clock

PARTS = {  # in this order: later jobs need the results of earlier ones
    "truth": [jobs.truth_jobs],
    "sharing": [jobs.sharing_jobs],
    "ranking": [jobs.ranking_jobs, jobs.adapted_jobs],
    "aids": [jobs.aid_jobs],
    "comparison": [jobs.comparison_jobs, jobs.pick_jobs],
}


def main() -> None:
    """Run the command line. A user error prints one line and exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or file of a recipe")
    parser.add_argument("part", choices=[*PARTS, "report"], help="part of the study")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only jobs whose name contains TEXT; repeatable"
    )
    parser.add_argument("--small", action="store_true", help="few subnets and steps: the same procedure, shows nothing")
    add_options(parser, "runs/fidelity")
    parser.add_argument("--docs", type=Path, help="report: folder for results.md and figures")
    args = parser.parse_intermixed_args()
    try:
        for line in report(args) if args.part == "report" else run(args):
            print(line, flush=True)
    except (UserError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run(args: argparse.Namespace) -> Iterator[str]:
    """Run a part of the study and yield lines of progress."""
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    size = study.SMALL if args.small else study.FULL
    work = working.Work(args.out, study.Study(recipe.load(args.recipe, args.overrides), size))
    place = where(working.torch.device("cpu"))
    stamp = {"machine": place["device"], "git": str(place["git"]), "torch": place["versions"]["torch"]}
    os.environ["OMP_NUM_THREADS"] = "1"
    with lock.alone(args.out):
        record = Record(args.record or args.out / "record.jsonl")
        working.prepare(work)
        start = time.monotonic()
        for make in PARTS[args.part]:
            todo = jobs.named(make(work.study, record), args.only)
            for job, left in working.do(todo, work, record, args.workers, stamp):
                count = f"{sum(other.name in record.rows for other in todo):3}/{len(todo)}"
                clocks = f"{clock(time.monotonic() - start)}, {clock(left)} left"
                yield f"{count}  {clocks}  {job.name}: {headline(record.rows[job.name])}"


def report(args: argparse.Namespace) -> Iterator[str]:
    """Write the document of the finished jobs. Needs neither the images nor the end of the study."""
    recipe.load(args.recipe, args.overrides)
    if args.docs is None:
        raise UserError("--docs: missing; the folder for results.md and figures")
    for path in document.write(Record(args.record or args.out / "record.jsonl"), args.recipe, args.docs):
        yield f"wrote {path}"


def headline(row: dict) -> str:
    """Return the numbers of a row for a line of progress."""
    shown = {key: row.get(key) for key in ("accuracy", "loss", "steps")}  # the steps of several supernets are a list
    numbers = [f"{key} {value:.4g}" for key, value in shown.items() if isinstance(value, int | float)]
    return ", ".join([*numbers, f"{row['seconds']} s"])


if __name__ == "__main__":
    main()
