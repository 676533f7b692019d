"""Score subnets after a short training of their own, from the weights that they have in a supernet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.fidelity import supernets
from tests.benchmarks.fidelity.halving import Trainings
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import Study
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.extract import subnet_state_dict
from vitas_ds.models.supernet import Supernet

ADAPTED = ("nested",)  # variants
MARKS = (50, 150, 400)  # steps; the last one is the length of the schedule
LR = 1e-3


def inherited(supernet: Supernet) -> Callable[[SubnetSpec], dict[str, Tensor]]:
    """Return a function from a subnet to the weights that it has in a supernet, on the first side."""

    def weights(spec: SubnetSpec) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: value.clone() for name, value in subnet_state_dict(supernet, spec).items()}

    return weights


def trained_supernet(study: Study, variant: str, seed: int, weights: Path) -> Supernet:
    """Return the supernet of a variant with its weights, see ``working.Work.weights``."""
    (plan,) = supernets.plans(study, supernets.VARIANTS[variant], seed)
    supernet = supernets.new(plan)
    supernet.load_state_dict(torch.load(weights.with_stem(f"{weights.stem} 0")))
    return supernet


def adapt(study: Study, variant: str, images: Images, seed: int, folder: Path, weights: Path) -> dict[str, Any]:
    """Train each subnet of equal cost for a few steps. Returns its scores after each of ``MARKS`` steps."""
    supernet = trained_supernet(study, variant, seed, weights)
    retrain = study.config.retrain.model_copy(update={"lr": LR})
    config = study.config.model_copy(update={"retrain": retrain})
    trainings = Trainings(folder, images, config, MARKS[-1], seed, inherited(supernet))
    nets = {name: net for name, net in study.nets.items() if name.startswith("equal")}
    scores: dict[str, dict[str, float]] = {f"after {step} steps": {} for step in MARKS}
    for name, net in nets.items():
        for step in MARKS:
            scores[f"after {step} steps"][name] = trainings.accuracy(net, step)
    return {"scores": scores, "training_seconds": round(trainings.seconds(), 1)}
