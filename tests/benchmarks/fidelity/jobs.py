"""The jobs of the study. A job is a row of the record once it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.benchmarks.fidelity import supernets
from tests.benchmarks.fidelity.study import Study
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec


@dataclass(frozen=True)
class Job:
    """A piece of work of one process.

    Attributes:
        name: Unique name.
        kind: What to do, see working.py.
        what: The subject: a spec as a dictionary, or the name of a supernet variant.
        seed: Seed of the training.
        cost: Expected relative duration.
    """

    name: str
    kind: str
    what: Any
    seed: int
    cost: float


def truth_jobs(study: Study) -> list[Job]:
    """Return the trainings of the subnets alone: first those of equal cost, then the longer ones, then the others."""
    seeds = range(study.size.seeds)
    equal = [net_job(*net, seed) for seed in seeds for net in study.nets.items() if net[0].startswith("equal")]
    longer = [net_job(*net, seed, longer=True) for seed in seeds for net in study.longer_nets.items()]
    spread = [net_job(*net, seed) for seed in seeds for net in study.nets.items() if net[0].startswith("spread")]
    return equal + longer + spread


def net_job(name: str, spec: SubnetSpec, seed: int, longer: bool = False) -> Job:
    """Return the training of a subnet alone; ``longer`` doubles its steps."""
    name, kind = (f"{name}, twice as long", "longer") if longer else (name, "net")
    return Job(f"{name}, seed {seed}", kind, spec.to_dict(), seed, spec_macs(spec) * (1 + longer))


def ranking_jobs(study: Study) -> list[Job]:
    """Return the trainings of the supernet variants: all with the first seed before the next one."""
    return [
        Job(f"{name}, seed {seed}", "supernet", name, seed, variant.length)
        for seed in range(study.size.seeds)
        for name, variant in supernets.VARIANTS.items()
    ]
