"""Run the jobs of the study in worker processes and record each result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.fidelity import images, learning, scoring, searching, study
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.jobs import Job
from tests.benchmarks.fidelity.pool import pool
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.models.supernet import Supernet


@dataclass(frozen=True)
class Work:
    """The files of a study."""

    folder: Path
    size: Size
    study: str  # the digest of origin.digest

    def images(self) -> Path:
        """Return the path of the images as tensors."""
        return self.folder / f"images-{self.study}.pt"

    def weights(self, name: str, seed: int) -> Path:
        """Return the path of a trained supernet."""
        return self.folder / "supernets" / f"{name}, seed {seed}.pt"


def prepare(work: Work, digits: Path) -> None:
    """Decode and augment the images unless they are there."""
    if not work.images().exists():
        aside = work.images().with_suffix(".partial")
        torch.save(vars(images.read(digits, work.size.views)), aside)
        aside.rename(work.images())


@cache
def _images(path: Path) -> Images:
    return Images(**torch.load(path, mmap=True))


def run(job: Job, work: Work) -> dict[str, Any]:
    """Run a job and return its row of the record."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # faster without it for matrices this small
    shown, start = _images(work.images()), time.perf_counter()
    row: dict[str, Any] = {"job": job.name, "kind": job.kind, "seed": job.seed, "what": job.what}
    if job.kind in ("net", "longer"):
        spec, steps = spec_from_dict(job.what), work.size.net_steps * (1 if job.kind == "net" else 2)
        row |= {"macs": spec_macs(spec)} | learning.train_net(spec, shown, steps, job.seed)
    elif job.kind == "supernet":
        row |= _supernet(job, work, shown)
    else:
        row |= searching.run(_load(work, job.what), shown, work.size, job.seed)
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def _supernet(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    variant, start = study.variant(job.what), time.perf_counter()
    trained = learning.train_supernet(variant, shown, work.size, job.seed)
    row = {"steps": trained.steps, "positions": trained.positions, "loss": trained.loss}
    row["training_seconds"] = round(time.perf_counter() - start, 1)
    path = work.weights(job.what, job.seed)
    path.parent.mkdir(exist_ok=True)
    torch.save(trained.supernet.state_dict(), path)
    row["scores"] = scoring.scores(variant, trained.supernet, trained.averages, shown, study.nets(work.size))
    return row


def _load(work: Work, name: str) -> Supernet:
    settings = study.variant(name).supernet
    supernet = Supernet(study.SPACE, settings.sharing, settings.private_attention, class_token_only=True)
    supernet.load_state_dict(torch.load(work.weights(name, 0)))
    return supernet.eval()


def do(jobs: list[Job], work: Work, record: Record, workers: int, stamp: dict[str, Any]) -> Iterator[tuple[Job, float]]:
    """Run the jobs that are not in the record. Yields each finished job and the estimated seconds left.

    The estimate includes running jobs. It assumes busy workers at the mean pace of the finished jobs.
    """
    todo = [job for job in jobs if job.name not in record.rows]
    whole, done, busy, start = sum(job.cost for job in todo), 0.0, 0.0, time.perf_counter()
    processes = pool(workers)
    try:
        futures = {processes.submit(run, job, work): job for job in todo}
        for future in as_completed(futures):
            job, row = futures[future], future.result()
            record.add(row | stamp)
            done, busy = done + job.cost, busy + row["seconds"]
            yield job, max(0.0, whole * busy / done / workers - (time.perf_counter() - start))
    finally:
        processes.shutdown(cancel_futures=True)
