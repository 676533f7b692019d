"""Run the jobs of the study in worker processes and record each result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.fidelity import adapting, aids, images, pipelines, sharing, supernets, training
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.jobs import Job
from tests.benchmarks.fidelity.pool import pool
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Study
from vitas_ds.arch.spec import spec_from_dict


@dataclass(frozen=True)
class Work:
    """The files of a study."""

    folder: Path
    study: Study

    @property
    def images(self) -> Path:
        """The images as tensors."""
        return self.folder / f"images-{self.study.images_digest()}.pt"

    def saved(self, job: Job) -> Path:
        """Return the path of an unfinished training. Another recipe has other paths."""
        return self.folder / "unfinished" / self.study.digest(job.section) / f"{job.name}.pt"

    def progress(self, job: Job) -> Path:
        """Return the folder of the unfinished trainings of a job that has several."""
        return self.saved(job).with_suffix("")

    def trained(self, variant: str, job: Job) -> Path:
        """Return the path of the supernet of a variant with the seed of a job."""
        return self.weights(replace(job, name=f"{variant}, seed {job.seed}"))

    def weights(self, job: Job) -> Path:
        """Return the path of a trained supernet. The first of a variant has the suffix 0."""
        return self.folder / "supernets" / f"{job.name}.pt"


def prepare(work: Work) -> None:
    """Decode and augment the images unless they are there."""
    if not work.images.exists():
        images.write(work.study, work.images)


def run(job: Job, work: Work) -> dict[str, Any]:
    """Run a job and return its row of the record."""
    torch.set_num_threads(1)
    start = time.thread_time()
    shown = images.read(work.images, work.study.config.data)
    row = {"job": job.name, "kind": job.kind, "seed": job.seed, "what": job.what}
    row |= KINDS[job.kind](job, work, shown)
    work.saved(job).unlink(missing_ok=True)
    return row | {"seconds": round(time.thread_time() - start, 1)}


def _net(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    steps = work.study.net_steps * (1 + (job.kind == "longer"))
    spec, config = spec_from_dict(job.what), work.study.config
    row = training.train_net(spec, shown, config, steps, job.seed, work.saved(job))
    return row | {"digest": work.study.digest("retrain")}


def _supernet(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    variant = supernets.VARIANTS[job.what]
    row = supernets.train(work.study, variant, shown, job.seed, work.saved(job), work.weights(job))
    return row | {"digest": work.study.digest("supernet")}


def _sharing(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    row = sharing.train(work.study, job.what, shown, job.seed, work.saved(job))
    return row | {"digest": work.study.digest("supernet")}


def _adapted(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    return adapting.adapt(work.study, job.what, shown, job.seed, work.progress(job), work.trained(job.what, job))


def _aids(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    if job.what == "teacher":
        return {"ways": aids.with_teacher(work.study, shown, job.seed, work.progress(job))}
    trained = work.trained(adapting.ADAPTED[0], job)
    return {"ways": aids.from_supernet(work.study, shown, job.seed, work.progress(job), trained)}


def _search(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    context = pipelines.Context(work.study, shown, job.seed, work.progress(job))
    return {"result": pipelines.METHODS[job.what["method"]](context)}


KINDS = {
    "net": _net, "longer": _net, "supernet": _supernet, "sharing": _sharing, "adapted": _adapted, "aids": _aids,
    "search": _search,
}  # fmt: skip


def do(jobs: list[Job], work: Work, record: Record, workers: int, stamp: dict[str, Any]) -> Iterator[tuple[Job, float]]:
    """Run the jobs that are not in the record. Yields each finished job and the estimated seconds left.

    The estimate includes running jobs. It assumes the pace since the start.
    """
    todo = [job for job in jobs if job.name not in record.rows]
    whole, done, start = sum(job.cost for job in todo), 0.0, time.perf_counter()
    processes = pool(workers)
    try:
        futures = {processes.submit(run, job, work): job for job in todo}
        for future in as_completed(futures):
            job, row = futures[future], future.result()
            record.add(row | stamp)
            done += job.cost
            yield job, (time.perf_counter() - start) * (whole - done) / done
    finally:
        processes.shutdown(cancel_futures=True)
