"""The jobs of the study: a job is a row of the record once it is done. Also their epochs and their computation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.benchmarks.elastic import counts, networks
from tests.benchmarks.elastic.networks import PRUNED
from tests.benchmarks.elastic.study import SCRATCH_LR, Study
from tests.benchmarks.fidelity.record import Record
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.run.run_dir import RunDir

Row = dict[str, Any]
NO_SORTING = ("supernet.importance_images=0", "search.seeds=0")
SUPERNETS = {"elastic": (), "unsorted": NO_SORTING}


@dataclass(frozen=True)
class Method:
    """A method that is compared.

    Attributes:
        letter: Its number in the plan.
        networks: Where its networks come from: ``elastic`` and ``unsorted`` are searches.
        weights: Initial weights: ``scratch``, ``pruned``, or the supernet of a search.
        shared: What it pays once for all budgets: parts of the computation of its search.
        teacher: Whether it learns from the start network.
    """

    letter: str
    networks: str
    weights: str
    shared: tuple[str, ...] = ()
    teacher: bool = True


METHODS = {
    "elastic": Method("", "elastic", "elastic", ("importance", "training", "scores")),
    "scratch": Method("i", "elastic", "scratch", teacher=False),
    "scratch with teacher": Method("i", "elastic", "scratch"),
    "uniform": Method("ii", "uniform", "pruned", ("importance", "uniform")),
    "greedy": Method("iii", "greedy", "pruned", ("importance", "greedy")),
    "sibling": Method("iv", "sibling", "scratch"),
    "random": Method("v", "random", "elastic", ("importance", "training")),
    "unsorted": Method("vi", "unsorted", "unsorted", ("importance", "training", "scores")),
    "uniform alone": Method("ii", "uniform", "pruned", ("importance", "uniform")),
}
ALONE = "uniform alone"  # at each budget, with all the computation that elastic needs for this budget alone


@dataclass(frozen=True)
class Job:
    """A piece of work of one process.

    Attributes:
        name: Unique name.
        kind: start, search or network.
        what: The method.
        seed: Its seed.
        cost: MACs, for the remaining time.
        budget: Name of the budget of a network.
        spec: The network.
        epochs: Epochs of its training.
        own: MACs of its training.
        shared: MACs that the method pays once for all budgets of a seed.
        limit: MACs that the method may use for all budgets of a seed.
    """

    name: str
    kind: str
    what: str
    seed: int
    cost: float
    budget: str = ""
    spec: Row | None = None
    epochs: int = 0
    own: int = 0
    shared: int = 0
    limit: int = 0

    @property
    def slug(self) -> str:
        """Name of its run."""
        return self.name.replace(", ", "-").replace(" ", "-")


def start_job(study: Study) -> Job:
    """Return the training of the start network."""
    macs, epochs = spec_macs(study.largest), study.size.start_epochs
    own = epochs * counts.epoch_macs(macs, study.epoch_images)
    return Job("start", "start", "start", 0, own, spec=study.largest.to_dict(), epochs=epochs, own=own)


def search_jobs(study: Study, seed: int) -> list[Job]:
    """Return the supernets with their searches."""
    cost = float(total(stand_in(study)["compute"]))
    return [Job(search_name(name, seed), "search", name, seed, cost) for name in SUPERNETS]


def search_name(name: str, seed: int) -> str:
    """Return the name of the job, and its run, of a supernet and its search."""
    return f"{name}, search, seed {seed}"


def network_jobs(study: Study, seed: int, searches: dict[str, Row]) -> list[Job]:
    """Return the trainings of all networks of a seed, the longest first, and those of one budget alone last.

    Args:
        study: The study.
        seed: The seed.
        searches: Rows of ``elastic`` and ``unsorted``.
    """
    whole = [*range(len(study.budgets))]
    jobs = [
        job for name in METHODS for budgets in ([[i] for i in whole] if name == ALONE else [whole])
        for job in _of_method(study, seed, name, searches, budgets)
    ]  # fmt: skip
    return sorted(jobs, key=lambda job: (job.what == ALONE, -job.cost))


def _of_method(study: Study, seed: int, name: str, searches: dict[str, Row], budgets: list[int]) -> list[Job]:
    """Return the trainings of a method that shares its computation between some budgets."""
    method = METHODS[name]
    row = searches["unsorted" if name == "unsorted" else "elastic"]
    limit = elastic_total(study, searches["elastic"], budgets)
    specs = [row["networks"][method.networks][i] for i in budgets]
    per_epoch = [_epoch(study, spec, method.teacher) for spec in specs]
    shared = sum(_paid(row["compute"][part], [study.budgets[i] for i in budgets]) for part in method.shared)
    fixed = name in SUPERNETS
    epochs = [study.config.retrain.epochs] * len(specs) if fixed else counts.affordable(limit - shared, per_epoch)
    jobs = []
    for i, spec, count, macs in zip(budgets, specs, epochs, per_epoch, strict=True):
        own = count * macs
        cost = own + study.num_test_images * spec_macs(spec_from_dict(spec))
        job = f"{name}, {study.budgets[i]}, seed {seed}"
        jobs.append(Job(job, "network", name, seed, cost, study.budgets[i], spec, count, own, shared, limit))
    return jobs


def _paid(compute: int | dict[str, int], budgets: list[str]) -> int:
    """Return what a part of a search costs for some budgets."""
    return sum(compute[name] for name in budgets) if isinstance(compute, dict) else compute


def _epoch(study: Study, spec: Row, teacher: bool = True) -> int:
    """Count an epoch of a network's training."""
    macs = spec_macs(spec_from_dict(spec))
    return counts.epoch_macs(macs, study.epoch_images, spec_macs(study.largest) if teacher else 0)


def elastic_total(study: Study, row: Row, budgets: list[int] | None = None) -> int:
    """Count everything that the elastic method needs for its budgets, or for some of them alone."""
    chosen = [*range(len(study.budgets))] if budgets is None else budgets
    compute, found = row["compute"], row["networks"]["elastic"]
    scores = sum(compute["scores"][study.budgets[i]] for i in chosen)
    tuned = sum(study.config.retrain.epochs * _epoch(study, found[i]) for i in chosen)
    return compute["importance"] + compute["training"] + scores + tuned


def total(compute: Any) -> int:
    """Return the sum of all numbers of a nested dictionary."""
    return sum(map(total, compute.values())) if isinstance(compute, dict) else compute


@cache
def stand_in(study: Study) -> Row:
    """Return the expected row of a search that is not done: siblings stand in for all networks."""
    config, macs, search = study.config, spec_macs(study.largest), study.config.search
    siblings = [networks.sibling(study, limit) for limit in study.limits]
    scored = search.population * search.generations * (search.images or study.search_images)
    options = (config.space.depth - config.space.min_layers + 1) * len(config.space.embed_widths)
    pruned = options * study.search_images

    def of_each(images: int) -> dict[str, int]:
        return {name: images * spec_macs(spec) for name, spec in zip(study.budgets, siblings, strict=True)}

    compute = {
        "importance": counts.importance_macs(config, study.train_images, macs),
        "training": counts.elastic_macs(config, study.train_images, macs),
        "scores": of_each(scored),
    } | dict.fromkeys(PRUNED, of_each(pruned))
    specs = [spec.to_dict() for spec in siblings]
    return {"compute": compute, "networks": {method.networks: specs for method in METHODS.values()}}


def all_jobs(study: Study, record: Record) -> list[Job]:
    """Return all jobs of the comparison; unknown networks are estimated."""
    found, expected = list[Job](), stand_in(study)
    for seed in range(study.size.seeds):
        searches = {name: record.rows.get(search_name(name, seed), expected) for name in SUPERNETS}
        found += [*search_jobs(study, seed), *network_jobs(study, seed, searches)]
    return found


def lost(study: Study, record: Record) -> list[str]:
    """Return the recorded jobs whose files are gone, for example with another machine, but are still needed."""
    left = {seed for seed in range(study.size.seeds) if _networks_left(study, record, seed)}
    files = {"start": [study.run("start").summary]} if left else {}
    for seed in left:
        for name in SUPERNETS:
            files[search_name(name, seed)] = [search_run(study, name, seed).best]
        pruned = [pruned_folder(study, name, budget, seed) for name in PRUNED for budget in study.budgets]
        files[search_name("elastic", seed)] += pruned
    return [name for name in files if name in record.rows and not all(path.exists() for path in files[name])]


def _networks_left(study: Study, record: Record, seed: int) -> bool:
    done = sum(row["seed"] == seed for row in record.of("network"))
    return done < len(METHODS) * len(study.budgets)


def words(study: Study, job: Job) -> list[str]:
    """Return the settings of a network's training."""
    method, start = METHODS[job.what], study.run("start").path
    if method.weights in SUPERNETS:
        source = [f"search.checkpoint={search_run(study, method.weights, job.seed).path}", *SUPERNETS[method.weights]]
        return [f"retrain.epochs={job.epochs}", "retrain.init=supernet", *source]
    more = [f"retrain.epochs={job.epochs}", f"retrain.teacher.model={start if method.teacher else 'null'}"]
    if method.weights == "scratch":
        return [*more, "retrain.init=scratch", f"retrain.lr={SCRATCH_LR}"]
    return [*more, f"retrain.init={pruned_folder(study, method.networks, job.budget, job.seed)}"]


def search_run(study: Study, name: str, seed: int) -> RunDir:
    """Return the run of a supernet and its search."""
    return study.run(Job(search_name(name, seed), "search", name, seed, 0).slug)


def pruned_folder(study: Study, name: str, budget: str, seed: int) -> Path:
    """Return the model folder of a network pruned in one shot: ``uniform`` or ``greedy``."""
    return study.folder / "pruned" / f"{name}-{budget}-seed-{seed}"
