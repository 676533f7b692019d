"""Does elastic training pay off? Compare its networks at equal compute with pruning, siblings and others.

    python -m tests.benchmarks.elastic start data.train=DIR data.val=DIR     train the start network
    python -m tests.benchmarks.elastic compare data.train=DIR data.val=DIR   all methods, budgets and seeds
    python -m tests.benchmarks.elastic report --docs docs                    tables and figure of what is done

docs/elastic.md has the plan. Overrides are those of the stages. A second start resumes: finished jobs are in the
record, and unfinished stages go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch

from tests.benchmarks.elastic import document, jobs, speed, working
from tests.benchmarks.elastic.jobs import Job
from tests.benchmarks.elastic.study import FULL, QUICK, Study
from tests.benchmarks.fidelity import lock
from tests.benchmarks.fidelity.options import add_options
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.timing import where
from vitas_ds.errors import UserError
from vitas_ds.run.metrics import clock


def main() -> None:
    """Run the command line. A user error prints one line and exits with status 2."""
    parser = argparse.ArgumentParser(
        "elastic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["start", "compare", "report"], help="part of the study")
    parser.add_argument("--recipe", default="elastic_cifar10", help="name or file of a recipe")
    parser.add_argument("--quick", action="store_true", help="few images and steps: the same procedure, shows nothing")
    add_options(parser, "runs/elastic")
    parser.add_argument("--docs", type=Path, help="report: folder with elastic.md, for its table and elastic/")
    args = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        for line in report(args) if args.step == "report" else run(args):
            print(line, flush=True)
    except (UserError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(75, f"{parser.prog}: stopped; start the same command again to continue\n")


def _stop(number: int, frame: FrameType | None) -> None:
    working.stop_workers()  # Ctrl-C reaches them without this
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> Iterator[str]:
    """Run a step and yield lines of progress."""
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    study = Study(args.out.absolute(), args.recipe, tuple(args.overrides), QUICK if args.quick else FULL)
    place = where(torch.device("cpu"))
    stamp = {
        "machine": place["device"], "git": str(place["git"]), "torch": place["versions"]["torch"],
        "digest": study.digest(),
    }  # fmt: skip
    with lock.alone(args.out):
        record = Record(args.record or args.out / "record.jsonl")
        for row in record.rows.values():
            if row.get("digest") != stamp["digest"]:
                raise UserError(
                    f"{record.path}: {row['job']} has other settings than this start; give another --record"
                )
        study.write_images()
        for name in jobs.lost(study, record):
            del record.rows[name]
            yield f"{name}: in the record, but its files are missing; it runs again"
        yield from (_start if args.step == "start" else _compare)(args, study, record, stamp)


def _start(args: argparse.Namespace, study: Study, record: Record, stamp: dict[str, str]) -> Iterator[str]:
    job = jobs.start_job(study)
    if "start" in record.rows:
        yield f"done already: {headline(record.rows['start'])}"
        return
    rate = speed.measure(study.largest, study.config.retrain.batch_size)
    yield estimate([job], rate, args.workers)
    with working.open_pool(1, args.workers) as processes:  # one training, all cores
        for _ in working.do([job], study, record, processes, 1, stamp):
            yield f"start: {headline(record.rows['start'])}"


def _compare(args: argparse.Namespace, study: Study, record: Record, stamp: dict[str, str]) -> Iterator[str]:
    if "start" not in record.rows:
        raise UserError(f"{record.path}: no start network; run the step start first")
    everything = jobs.all_jobs(study, record)
    left = [job for job in everything if job.name not in record.rows]
    yield estimate(left, measured(record), args.workers)
    processes, start, done = working.open_pool(args.workers, 1), time.monotonic(), 0.0
    try:
        for job in _in_order(study, record, processes, args.workers, stamp):
            done += job.cost
            seconds = time.monotonic() - start
            rest = seconds * (sum(job.cost for job in left) - done) / done
            count = f"{sum(job.name in record.rows for job in everything):3}/{len(everything)}"
            yield f"{count}  {clock(seconds)}, {clock(rest)} left  {job.name}: {headline(record.rows[job.name])}"
    except UserError:
        working.stop_workers()
        raise
    finally:
        processes.shutdown(cancel_futures=True)


def _in_order(study: Study, record: Record, processes: working.ProcessPoolExecutor, workers: int, stamp: dict[str, str]
              ) -> Iterator[Job]:  # fmt: skip
    """Finish a seed before the next one. The networks depend on both searches."""
    for seed in range(study.size.seeds):
        yield from working.do(jobs.search_jobs(study, seed), study, record, processes, workers, stamp)
        searches = {name: record.rows[jobs.search_name(name, seed)] for name in jobs.SUPERNETS}
        todo = jobs.network_jobs(study, seed, searches)
        yield from working.do(todo, study, record, processes, workers, stamp)


def report(args: argparse.Namespace) -> Iterator[str]:
    """Write tables and figure of the finished jobs. Needs neither the images nor the end of the study."""
    if args.docs is None:
        raise UserError("--docs: missing; the folder with elastic.md")
    for path in document.write(Record(args.record or args.out / "record.jsonl"), args.docs):
        yield f"wrote {path}"


def measured(record: Record) -> float:
    """Return the MACs per second of one core in the finished jobs."""
    return statistics.median(row["cost"] / max(row["cpu_seconds"], 0.1) for row in record.rows.values())


def estimate(left: list[Job], rate: float, workers: int) -> str:
    """Return a line with the work to do."""
    work, cores = sum(job.cost for job in left), min(workers, os.cpu_count() or 1)
    hours = work / rate / cores / 3600
    return f"estimate: {work:.3g} MACs, {rate / 1e9:.3g}G MACs per second and core: {hours:.1f} hours on {cores} cores"


def headline(row: dict) -> str:
    """Return the numbers of a row for a line of progress."""
    numbers = [f"before {row['before']:.2%}"] if row.get("before") is not None else []
    numbers += [f"top-1 {row['top1']:.2%}", f"{row['epochs']} epochs"] if "top1" in row else []
    return ", ".join([*numbers, f"{row['seconds']} s"])


if __name__ == "__main__":
    main()
