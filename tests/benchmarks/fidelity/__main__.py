"""Compare the ranking of subnets by supernets with the ranking by their own training, on real digits.

    python -m tests.benchmarks.fidelity            about 3 hours on two cores that do little else
    python -m tests.benchmarks.fidelity --further  12 minutes: two supernets trained ten times as long
    python -m tests.benchmarks.fidelity --small    about 6 minutes: the same procedure, too short to show much

A second start resumes: jobs in the record (runs/fidelity/NAME/record.jsonl) are not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fidelity import document, further, jobs, origin, study, working
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.timing import where
from vitas_ds.errors import UserError


def main() -> None:
    """Run the command line. A user error prints one line and exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer subnets and steps, one seed, four supernets")
    parser.add_argument("--further", action="store_true", help="train only the supernets of further.py")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--digits", type=Path, default=Path("data/digits"), help="images written by launch/make_digits.py"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"), help="folder for record and weights")
    parser.add_argument("--docs", type=Path, help="folder for results and record (default: below --out)")
    args = parser.parse_args()
    try:
        for line in run(args):
            print(line, flush=True)
    except (UserError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run(args: argparse.Namespace) -> Iterator[str]:
    """Run the study and yield lines of progress."""
    _check(args)
    size = study.SMALL if args.small else study.FULL
    mark, stamp = origin.digest(size, args.digits), where(working.torch.device("cpu"))
    stamp = {"machine": stamp["device"], "git": str(stamp["git"]), "torch": stamp["versions"]["torch"], "study": mark}
    work = working.Work(args.out / size.name, size, mark)
    with origin.alone(work.folder):
        record = Record(work.folder / "record.jsonl")
        origin.check(record, mark, stamp["git"], documents=args.docs is not None)
        working.prepare(work, args.digits)
        if args.further:
            for row in further.do(work, record, args.workers, stamp):
                yield f"{row['job']}: {document.headline(row)}"
        else:
            yield from _jobs(work, record, args.workers, stamp)
        yield f"wrote {document.write(record, args.docs or work.folder)}"
        if args.docs and args.docs.resolve() != work.folder.resolve():
            shutil.copy(record.path, args.docs)


def _jobs(work: working.Work, record: Record, workers: int, stamp: dict[str, str]) -> Iterator[str]:
    start = time.monotonic()
    for parts in (jobs.first_jobs, jobs.search_jobs, lambda size: jobs.found_jobs(size, record)):
        todo = parts(work.size)
        for job, left in working.do(todo, work, record, workers, stamp):
            place = f"{sum(other.name in record.rows for other in todo):3}/{len(todo)}"
            clocks = f"{_clock(time.monotonic() - start)}, {_clock(left)} left of these"
            yield f"{place}  {clocks}  {job.kind} {job.name}: {document.headline(record.rows[job.name])}"


def _check(args: argparse.Namespace) -> None:
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    for part in ("train", "val"):
        if not any((args.digits / part).glob("*/*")):
            raise UserError(f"--digits {args.digits}: no images in {part}/; run python launch/make_digits.py")
    if args.docs:
        args.docs.mkdir(parents=True, exist_ok=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


if __name__ == "__main__":
    main()
