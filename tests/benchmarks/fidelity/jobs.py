"""The jobs of the study."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal

from tests.benchmarks.fidelity import study
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import spec_from_dict

LONGER = ", twice as long"


@dataclass(frozen=True)
class Job:
    """A training or a search. ``cost`` is in steps of an average subnet."""

    name: str
    kind: str  # net, longer, supernet or search
    what: Any  # a spec as a dictionary, or the name of a variant
    seed: int
    cost: float


def first_jobs(size: Size) -> list[Job]:
    """Return subnets and supernets alternately, for early results of both. The second seed comes last."""
    jobs = []
    for seed in range(size.seeds):
        nets = [net_job(name, spec.to_dict(), seed, size) for name, spec in study.nets(size).items()]
        nets += [net_job(name, spec.to_dict(), seed, size, 2) for name, spec in study.longer_nets(size).items()]
        chosen = [v for v in study.variants() if size.variants is None or v.name in size.variants]
        supernets = [
            Job(f"{v.name}, seed {seed}", "supernet", v.name, seed, v.length * size.supernet_steps) for v in chosen
        ]
        jobs += [job for job in chain(*zip_longest(supernets, *(nets[i::4] for i in range(4)))) if job]
    return jobs


def net_job(name: str, spec: dict[str, Any], seed: int, size: Size, length: Literal[1, 2] = 1) -> Job:
    """Return the job of a subnet trained alone. Length 2 checks whether the others are trained long enough."""
    share = spec_macs(spec_from_dict(spec)) / study.mean_macs()
    kind, name = ("net", name) if length == 1 else ("longer", f"{name}{LONGER}")
    return Job(f"{name}, seed {seed}", kind, spec, seed, length * size.net_steps * (0.3 + 0.7 * share))


def search_jobs(size: Size) -> list[Job]:
    """Return searches by evolution and at random on the supernets of ``study.SEARCHED_ON`` with seed 0."""
    cost = 2 * size.population * size.generations * 2.5
    trained = [name for name in study.SEARCHED_ON if size.variants is None or name in size.variants]
    return [
        Job(f"search on {name}, seed {i}", "search", name, i, cost) for name in trained for i in range(size.searches)
    ]


def found_jobs(size: Size, record: Record) -> list[Job]:
    """Return the trainings of the subnets that the searches found, uniform ones included."""
    specs = {name: spec for row in record.of("search") for name, spec in row["nets"].items()}
    return [net_job(f"found {name}", spec, seed, size) for name, spec in specs.items() for seed in range(size.seeds)]
