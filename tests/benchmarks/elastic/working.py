"""Run the jobs with the product's stages, in worker processes, and record each result."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tests.benchmarks.elastic import counts, jobs, networks, scores
from tests.benchmarks.elastic.jobs import METHODS, SUPERNETS, Job, Row
from tests.benchmarks.elastic.study import SCRATCH_LR, Study
from tests.benchmarks.fidelity.pool import pool
from tests.benchmarks.fidelity.record import Record
from vitas_ds.__main__ import main
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json, write_json
from vitas_ds.run.summary import read_summary

SAVE_SECONDS = 5  # between two writes of the clock


def do(
    todo: list[Job], study: Study, record: Record, processes: ProcessPoolExecutor, workers: int, stamp: dict[str, Any]
) -> Iterator[Job]:
    """Run the jobs that are not in the record. Yields each one once it is recorded.

    No job waits inside the pool: it could not be canceled there.
    """
    missing = iter([job for job in todo if job.name not in record.rows])
    running = {processes.submit(run, job, study): job for job in islice(missing, workers)}
    while running:
        future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
        job = running.pop(future)
        record.add(future.result() | stamp)
        running |= {processes.submit(run, following, study): following for following in islice(missing, 1)}
        yield job


def open_pool(workers: int, threads: int) -> ProcessPoolExecutor:
    """Return processes with a number of threads each. They end with this one."""
    os.environ |= {
        "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive",  # threads that spin take the cores of others
        "DS_ACCELERATOR": "cpu", "WANDB_MODE": "disabled",
    }  # fmt: skip
    return pool(workers)


def stop_workers() -> None:
    """Ask the stages that run to save and end."""
    for process in active_children():
        process.terminate()


def run(job: Job, study: Study) -> Row:
    """Run a job and return its row of the record. What the stages print goes to a log."""
    log = study.folder / "logs" / f"{job.slug}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    clock = Clock(log.with_suffix(".json"))
    try:
        result = {"start": _start, "search": _search, "network": _network}[job.kind](job, study)
    except UserError as error:
        raise UserError(f"{log}: {error}") from None
    row = {"job": job.name, "kind": job.kind, "what": job.what, "seed": job.seed, "cost": job.cost}
    return row | result | clock.stop()


class Clock:
    """Wall-clock and CPU seconds of a job, with those of earlier starts that were killed."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, Event()
        before = read_json(path, {"seconds": 0.0, "cpu_seconds": 0.0})
        self.wall, self.cpu = (
            now - then for now, then in zip((time.monotonic(), time.process_time()), before.values(), strict=True)
        )
        Thread(target=self._save, daemon=True).start()

    def read(self) -> dict[str, float]:
        """Return the seconds so far."""
        wall, cpu = time.monotonic() - self.wall, time.process_time() - self.cpu
        return {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}

    def stop(self) -> dict[str, float]:
        """Return all seconds."""
        self.done.set()
        return self.read()

    def _save(self) -> None:
        while not self.done.wait(SAVE_SECONDS):
            write_json(self.path, self.read())


def stage(name: str, study: Study, seed: int, *words: str) -> None:
    """Run a stage of the product.

    Raises:
        UserError: It did not end with success. Its line is the last one of the log.
    """
    status = main([name, study.recipe, *study.words(seed, *words)])
    if status:
        raise UserError(f"{name} ended with exit status {status}; see the end of this file")


def _start(job: Job, study: Study) -> Row:
    """Train the start network. It is evaluated to describe it; nothing depends on the result."""
    words = [
        "run.name=start", f"retrain.spec={_write_spec(job, study)}", "retrain.init=scratch",
        "retrain.teacher.model=null", f"retrain.lr={SCRATCH_LR}", f"retrain.epochs={job.epochs}",
    ]  # fmt: skip
    stage("retrain", study, job.seed, *words)
    return {"macs": spec_macs(study.largest), "epochs": job.epochs, "own": job.own} | _evaluate(study, job, words)


def _search(job: Job, study: Study) -> Row:
    """Train a supernet and search all budgets. ``networks`` has those of the other methods too."""
    run = jobs.search_run(study, job.what, job.seed)
    words = [f"run.name={run.name}", *SUPERNETS[job.what]]
    stage("train-supernet", study, job.seed, *words)
    stage("search", study, job.seed, *words)
    config, macs = study.config, spec_macs(study.largest)
    found: networks.Specs = {job.what: networks.of_search(run)}
    compute = {
        "importance": 0, "training": counts.elastic_macs(config, study.train_images, macs),
        "scores": counts.score_macs(run.ledger, study.limits),
    }  # fmt: skip
    if job.what == "elastic":
        compute["importance"] = counts.importance_macs(config, study.train_images, macs)
        others, scored = networks.by_importance(run, job.seed, scores.on_search_images(run))
        found |= others
        for name, counted in scored.items():
            compute[name] = {b: count * study.search_images for b, count in zip(study.budgets, counted, strict=True)}
        found["sibling"] = [networks.sibling(study, limit).to_dict() for limit in study.limits]
        for name in jobs.PRUNED:
            for budget, spec in zip(study.budgets, found[name], strict=True):
                folder = jobs.pruned_folder(study, name, budget, job.seed)
                networks.write_pruned(run, spec_from_dict(spec), folder)
    seconds = read_summary(run)["train-supernet"]["seconds"]
    return {"compute": compute, "networks": found, "training_seconds": seconds}


def _network(job: Job, study: Study) -> Row:
    """Evaluate the inherited weights of a network, if it has any; train and evaluate it."""
    spec = spec_from_dict(job.spec)
    words = [f"retrain.spec={_write_spec(job, study)}", *jobs.words(study, job)]
    before = None
    if METHODS[job.what].weights != "scratch":
        before = _before(job, study, words)
    words.append(f"run.name={job.slug}")
    stage("retrain", study, job.seed, *words)
    row = {"budget": job.budget, "macs": spec_macs(spec), "epochs": job.epochs, "before": before, "spec": job.spec}
    return row | _evaluate(study, job, words) | {"own": job.own, "shared": job.shared, "limit": job.limit}


def _before(job: Job, study: Study, words: list[str]) -> float:
    """Return the test accuracy of the inherited weights."""
    name = f"{job.slug}-before"
    if METHODS[job.what].weights == "pruned":
        folder = jobs.pruned_folder(study, METHODS[job.what].networks, job.budget, job.seed)
        words = [f"run.name={name}", f"evaluate.model={folder}"]
    else:
        words = [*words, f"run.name={name}", "retrain.epochs=0"]
        stage("retrain", study, job.seed, *words)
    stage("evaluate", study, job.seed, *words)
    return read_summary(study.run(name))["evaluate"]["top1"]


def _evaluate(study: Study, job: Job, words: list[str]) -> Row:
    """Return the test accuracy of a trained network."""
    stage("evaluate", study, job.seed, *words)
    found = read_summary(study.run(job.slug))
    tested = found["evaluate"]
    return {"top1": tested["top1"], "images": tested["images"], "training_seconds": found["retrain"]["seconds"]}


def _write_spec(job: Job, study: Study) -> Path:
    path = study.folder / "specs" / f"{job.slug}.json"
    write_json(path, job.spec)
    return path
