"""Trainings of subnets with an aid: weights inherited from a supernet, or a teacher.

They have as many steps as the trainings of the same subnets without an aid, which are the truth.
"""
# n nets

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tests.benchmarks.fidelity import agreement, training
from tests.benchmarks.fidelity.adapting import ADAPTED, LR, inherited, trained_supernet
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.longer import read as twice_as_long
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Study
from tests.benchmarks.fidelity.truth import Truth
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config

Ways = dict[str, dict[str, Any]]  # way of training -> subnet -> results
NOTES = """The subnets that are also trained twice as long, trained once more for the usual number of steps: from the
weights that they have in the supernet *nested*, or with a teacher in addition to the labels. Each is compared with the
mean of its trainings without an aid, from random weights. The intervals resample subnets."""


def from_supernet(study: Study, images: Images, seed: int, folder: Path, weights: Path) -> Ways:
    """Train the subnets from inherited weights, with the usual learning rate and with a lower one."""
    initial = inherited(trained_supernet(study, ADAPTED[0], seed, weights))
    config = study.config
    slower = config.model_copy(update={"retrain": config.retrain.model_copy(update={"lr": LR})})
    ways = {"inherited weights": config, f"inherited weights, lr {LR:g}": slower}
    return {way: _train(study, images, seed, folder / way, of, initial=initial) for way, of in ways.items()}


def with_teacher(study: Study, images: Images, seed: int, folder: Path) -> Ways:
    """Train the subnets with a teacher, the largest subnet of the study, trained alone with the same seed."""
    config, spec = study.config, list(study.nets.values())[-1]
    trainer = training.net_trainer(spec, config, study.net_steps, seed)
    progress = training.Saved(folder / "teacher.pt", trainer)
    progress.run(images, seed)
    progress.save()
    ways = {f"{kind} teacher": config.retrain.teacher.model_copy(update={"kind": kind}) for kind in ("soft", "hard")}
    found: Ways = {"teacher": {"": training.evaluate(trainer.model, images, images.val)}}
    for way, settings in ways.items():
        taught = config.model_copy(update={"retrain": config.retrain.model_copy(update={"teacher": settings})})
        found[way] = _train(study, images, seed, folder / way, taught, teacher=trainer.model)
    return found


def _train(
    study: Study, images: Images, seed: int, folder: Path, config: Config, initial: Any = None,
    teacher: nn.Module | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the results of the subnets on the validation images."""

    def of(name: str, spec: SubnetSpec) -> dict[str, Any]:
        trainer = training.net_trainer(spec, config, study.net_steps, seed, teacher)
        if initial is not None:
            trainer.model.load_state_dict(initial(spec))
        progress = training.Saved(folder / f"{name}.pt", trainer)
        progress.run(images, seed)
        progress.save()
        return training.evaluate(trainer.model, images, images.val)

    return {name: of(name, spec) for name, spec in study.longer_nets.items()}


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return the accuracy of each way of training, and its gain over the trainings without an aid."""
    ways: dict[str, list[dict[str, float]]] = {}
    for row in record.of("aids"):
        for way, nets in row["ways"].items():
            if way != "teacher":
                ways.setdefault(way, []).append({name: found["accuracy"] for name, found in nets.items()})
    longer = twice_as_long(record, truth)
    if ways and longer is not None:
        ways["no aid, twice as long"] = [dict(zip(longer.names, by_n, strict=True)) for by_n in longer.longer.values()]
    return [_row(truth, way, seeds) for way, seeds in ways.items()]


def _row(truth: Truth, way: str, seeds: list[dict[str, float]]) -> dict[str, Any]:
    names = sorted(seeds[0])
    mean_n = np.mean([[found[name] for name in names] for found in seeds], 0)
    plain_n = truth.mean_n[[truth.names.index(name) for name in names]]
    gain = agreement.over_nets(lambda w_Kn: w_Kn @ (100 * (mean_n - plain_n)) / w_Kn.sum(1), len(names))
    return {
        "training": way, "seeds": len(seeds), "accuracy, %": f"{100 * mean_n.mean():.2f}",
        "without an aid": f"{100 * plain_n.mean():.2f}", "gain": gain,
    }  # fmt: skip
