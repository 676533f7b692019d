"""The jobs of the study. A job is a row of the record once it is done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import adapting, pipelines, sharing, supernets
from tests.benchmarks.fidelity.record import Record
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

    @property
    def section(self) -> str:
        """Section of the recipe that the job depends on most."""
        return "supernet" if self.kind in ("supernet", "sharing") else "retrain"


def truth_jobs(study: Study, record: Record) -> list[Job]:
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


def ranking_jobs(study: Study, record: Record) -> list[Job]:
    """Return the trainings of the supernet variants: short ones first, and of these the first seed first."""
    jobs = [
        Job(f"{name}, seed {seed}", "supernet", name, seed, variant.length)
        for seed in range(study.size.seeds)
        for name, variant in supernets.VARIANTS.items()
    ]
    return sorted(jobs, key=lambda job: job.cost)


def sharing_jobs(study: Study, record: Record) -> list[Job]:
    """Return the supernets in which one subnet is observed, the first seed first."""
    return [
        Job(f"sharing {case}, seed {seed}", "sharing", case, seed, 1)
        for seed in range(study.size.seeds)
        for case in sharing.CASES
    ]


def adapted_jobs(study: Study, record: Record) -> list[Job]:
    """Return the short trainings from the weights of supernets, which must be trained."""
    return [
        Job(f"{name}, adapted, seed {seed}", "adapted", name, seed, 1)
        for seed in range(study.size.seeds)
        for name in adapting.ADAPTED
    ]


def aid_jobs(study: Study, record: Record) -> list[Job]:
    """Return the trainings from the weights of a supernet, which must be trained, and with a teacher."""
    return [
        Job(f"aids, {what}, seed {seed}", "aids", what, seed, cost)
        for seed in range(study.size.seeds)
        for what, cost in (("supernet", 2), ("teacher", 3))
    ]


def comparison_jobs(study: Study, record: Record) -> list[Job]:
    """Return whole searches, with all methods of a seed before the next one."""
    budget = f"{np.mean(study.budget) / 1e6:.3g}M"
    return [
        Job(f"{method}, {budget}, seed {seed}", "search", {"method": method, "macs": study.budget}, seed, cost)
        for seed in range(study.size.searches)
        for method, cost in (
            ("supernet", 15),
            ("scores", 10),
            ("random halving", 32),
            ("regression", 10),
            ("first release", 6),
            ("rules", 2),
            ("by hand", 1),
        )
        if seed == 0 or method != "by hand"  # it has no randomness
    ]


def pick_jobs(study: Study, record: Record) -> list[Job]:
    """Return the trainings of the networks that the searches within the budget of the study ended with."""
    searches = [row for row in record.of("search") if tuple(row["what"]["macs"]) == tuple(study.budget)]
    specs = {json.dumps(spec, sort_keys=True): spec for row in searches for spec in pipelines.picks(row["result"])}
    return [
        Job(f"pick {pick_name(spec)}, seed {seed}", "net", spec, seed, 1)
        for seed in range(study.size.seeds)
        for spec in specs.values()
    ]


def named(jobs: list[Job], texts: list[str]) -> list[Job]:
    """Return the jobs whose name contains one of the texts; all jobs without texts."""
    return [job for job in jobs if not texts or any(text in job.name for text in texts)]


def pick_name(spec: dict[str, Any]) -> str:
    """Return a short name of a network."""
    layers = " ".join(f"{layer['num_heads']}.{layer['qkv_dim']}.{layer['mlp_dim']}" for layer in spec["layers"])
    return f"{spec['patch_size']}/{spec['embed_dim']}: {layers}"
