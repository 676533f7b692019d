"""The pieces of the study: what there is to do."""

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
    """``cost`` in steps of an average net tells what share of the work it is."""

    name: str
    kind: str  # net, longer, supernet or search
    what: Any  # a spec's dictionary, or a variant's name
    seed: int
    cost: float


def first_jobs(size: Size) -> list[Job]:
    """The nets and the supernets, in turns, so that the first results tell something; the second seed comes last."""
    jobs = []
    for seed in range(size.seeds):
        nets = [net_job(name, spec.to_dict(), seed, size) for name, spec in study.nets(size).items()]
        nets += [net_job(name, spec.to_dict(), seed, size, 2) for name, spec in study.longer_nets(size).items()]
        wanted = [v for v in study.variants() if size.variants is None or v.name in size.variants]
        supernets = [
            Job(f"{v.name}, seed {seed}", "supernet", v.name, seed, v.length * size.supernet_steps) for v in wanted
        ]
        jobs += [job for job in chain(*zip_longest(supernets, *(nets[i::4] for i in range(4)))) if job]
    return jobs


def net_job(name: str, spec: dict[str, Any], seed: int, size: Size, length: Literal[1, 2] = 1) -> Job:
    """A net trained alone, or twice as long, which tells whether the others are trained long enough."""
    share = spec_macs(spec_from_dict(spec)) / study.mean_macs()
    kind, name = ("net", name) if length == 1 else ("longer", f"{name}{LONGER}")
    return Job(f"{name}, seed {seed}", kind, spec, seed, length * size.net_steps * (0.3 + 0.7 * share))


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
