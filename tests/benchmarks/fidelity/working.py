"""Run the jobs of the study in worker processes and record each result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.fidelity import adapting, images, pipelines, sharing, supernets, training
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
    config, start = work.study.config, time.thread_time()
    shown = images.read(work.images, config.data)
    row: dict[str, Any] = {"job": job.name, "kind": job.kind, "seed": job.seed, "what": job.what}
    saved = work.saved(job)
    if job.kind in ("net", "longer"):
        steps = work.study.net_steps * (1 + (job.kind == "longer"))
        row |= training.train_net(spec_from_dict(job.what), shown, config, steps, job.seed, saved)
        row["digest"] = work.study.digest("retrain")
    elif job.kind == "supernet":
        variant = supernets.VARIANTS[job.what]
        row |= supernets.train(work.study, variant, shown, job.seed, saved, work.weights(job))
        row["digest"] = work.study.digest("supernet")
    elif job.kind == "sharing":
        row |= sharing.train(work.study, job.what, shown, job.seed, saved)
        row["digest"] = work.study.digest("supernet")
    elif job.kind == "adapted":
        trained = work.weights(replace(job, name=f"{job.what}, seed {job.seed}"))
        row |= adapting.adapt(work.study, job.what, shown, job.seed, saved.with_suffix(""), trained)
    elif job.kind == "search":
        context = pipelines.Context(work.study, shown, job.seed, saved.with_suffix(""))
        row["result"] = pipelines.METHODS[job.what["method"]](context)
    saved.unlink(missing_ok=True)
    return row | {"seconds": round(time.thread_time() - start, 1)}


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
