"""The pieces of the study, each done in a process of its own and written down when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.fidelity import images, learning, searching, study
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size
from vitas_ds.cost import spec_macs
from vitas_ds.models.supernet import Supernet
from vitas_ds.spec import spec_from_dict


@dataclass(frozen=True)
class Job:
    """``cost`` in steps of an average net tells what share of the work it is."""

    name: str
    kind: str  # net, supernet or search
    what: Any  # a spec's dictionary, or a variant's name
    seed: int
    cost: float


def first_jobs(size: Size) -> list[Job]:
    """The nets and the supernets, in turns, so that the first results tell something; the second seed comes last."""
    jobs = []
    for seed in range(size.seeds):
        nets = [net_job(name, spec.to_dict(), seed, size) for name, spec in study.nets(size).items()]
        wanted = [v for v in study.variants() if size.variants is None or v.name in size.variants]
        supernets = [Job(f"{v.name}, seed {seed}", "supernet", v.name, seed, v.length * size.supernet_steps)
                     for v in wanted if seed == 0 or v.length == 1]  # fmt: skip
        jobs += [job for job in chain(*zip_longest(supernets, nets[::2], nets[1::2])) if job]
    return jobs


def net_job(name: str, spec: dict[str, Any], seed: int, size: Size) -> Job:
    """A net trained alone."""
    share = spec_macs(spec_from_dict(spec)) / study.mean_macs()
    return Job(f"{name}, seed {seed}", "net", spec, seed, size.net_steps * (0.3 + 0.7 * share))


def search_jobs(size: Size) -> list[Job]:
    """Evolution and random search on the first supernets of ``study.SEARCHED_ON``."""
    cost = 2 * size.population * size.generations * 2.5
    trained = [name for name in study.SEARCHED_ON if size.variants is None or name in size.variants]
    return [
        Job(f"search on {name}, seed {i}", "search", name, i, cost) for name in trained for i in range(size.searches)
    ]


def found_jobs(size: Size, record: Record) -> list[Job]:
    """The nets that searches found, and the uniform ones, each trained alone as the truth is."""
    specs = {name: spec for row in record.of("search") for name, spec in row["nets"].items()}
    return [net_job(f"found {name}", spec, seed, size) for name, spec in specs.items() for seed in range(size.seeds)]


@dataclass(frozen=True)
class Work:
    """Where a process finds what it needs."""

    folder: Path
    size: Size

    def images(self) -> Path:
        """The images as tensors."""
        return self.folder / f"images{self.size.views}.pt"

    def weights(self, name: str, seed: int) -> Path:
        """A trained supernet."""
        return self.folder / "supernets" / f"{name}, seed {seed}.pt"


def prepare(work: Work, digits: Path) -> None:
    """Decode and augment the images, once."""
    if not work.images().exists():
        aside = work.images().with_suffix(".partial")
        torch.save(vars(images.read(digits, work.size.views)), aside)
        aside.rename(work.images())


@cache
def _images(path: Path) -> Images:
    return Images(**torch.load(path, mmap=True))


def run(job: Job, work: Work) -> dict[str, Any]:
    """Do a job; the row of the record."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # matrices this small are faster without
    shown, begun = _images(work.images()), time.perf_counter()
    row: dict[str, Any] = {"job": job.name, "kind": job.kind, "seed": job.seed, "what": job.what}
    if job.kind == "net":
        spec = spec_from_dict(job.what)
        row |= {"macs": spec_macs(spec)} | learning.train_net(spec, shown, work.size.net_steps, job.seed)
    elif job.kind == "supernet":
        row |= _supernet(job, work, shown)
    else:
        row |= searching.run(_load(work, job.what), shown, work.size, job.seed)
    return row | {"seconds": round(time.perf_counter() - begun, 1)}


def _supernet(job: Job, work: Work, shown: Images) -> dict[str, Any]:
    variant, begun = study.variant(job.what), time.perf_counter()
    supernet, averages, steps, loss = learning.train_supernet(variant, shown, work.size, job.seed)
    trained = round(time.perf_counter() - begun, 1)
    path = work.weights(job.what, job.seed)
    path.parent.mkdir(exist_ok=True)
    torch.save(supernet.state_dict(), path)
    found = learning.scores(variant, supernet, averages, shown, study.nets(work.size))
    return {"steps": steps, "loss": loss, "training_seconds": trained, "scores": found}


def _load(work: Work, name: str) -> Supernet:
    settings = study.variant(name).supernet
    supernet = Supernet(study.SPACE, settings.sharing, settings.private_attention, class_token_only=True)
    supernet.load_state_dict(torch.load(work.weights(name, 0)))
    return supernet.eval()


def do(jobs: list[Job], work: Work, record: Record, workers: int, stamp: dict[str, Any]) -> Iterator[tuple[Job, float]]:
    """Do what the record lacks, in some processes; each job as it is done, with the seconds that are left."""
    todo = [job for job in jobs if job.name not in record.rows]
    left, done, begun = sum(job.cost for job in todo), 0.0, time.perf_counter()
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        futures = {pool.submit(run, job, work): job for job in todo}
        for future in as_completed(futures):
            job = futures[future]
            record.add(future.result() | stamp)
            done += job.cost
            yield job, (left - done) * (time.perf_counter() - begun) / done
    finally:
        pool.shutdown(cancel_futures=True)
