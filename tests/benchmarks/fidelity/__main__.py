"""Does the supernet rank nets as their own training does? On real digits, in an evening on two cores.

    python -m tests.benchmarks.fidelity            about 1.5 hours on two cores; results.md and pictures
    python -m tests.benchmarks.fidelity --small    about 6 minutes: the same way, too short to tell much

Started again, it goes on: what is in the record (runs/fidelity/NAME/record.jsonl) is not done twice.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.benchmarks.fidelity import document, jobs, study
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.timing import where


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer nets and steps, one seed, four supernets")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--digits", type=Path, default=Path("data/digits"), help="made by launch/make_digits.py")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"), help="folder of record and weights")
    parser.add_argument("--docs", type=Path, help="folder of the document; without it, it lies beside the record")
    args = parser.parse_args()
    if not (args.digits / "train").is_dir():
        parser.error(f"--digits {args.digits}: no images there; python launch/make_digits.py makes them")
    size = study.SMALL if args.small else study.FULL
    work = jobs.Work(args.out / size.name, size)
    record = Record(work.folder / "record.jsonl")
    jobs.prepare(work, args.digits)
    stamp = where(jobs.torch.device("cpu"))
    stamp = {"machine": stamp["device"], "git": stamp["git"], "torch": stamp["versions"]["torch"]}
    begun = time.monotonic()
    for parts in (jobs.first_jobs, jobs.search_jobs, lambda size: jobs.found_jobs(size, record)):
        todo = parts(size)
        for job, left in jobs.do(todo, work, record, args.workers, stamp):
            place = f"{sum(other.name in record.rows for other in todo):3}/{len(todo)}"
            clocks = f"{_clock(time.monotonic() - begun)}, {_clock(left)} left"
            print(f"{place}  {clocks}  {job.kind} {job.name}: {document.headline(record.rows[job.name])}", flush=True)
    print(f"written: {document.write(record, size, args.docs or work.folder)}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


if __name__ == "__main__":
    main()
