"""Successive halving on trainings of networks alone, with progress on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.training import Saved, evaluate, net_trainer
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.search.trials.plan import Rung

Accuracy = Callable[[SubnetSpec, int], float]


@dataclass(frozen=True)
class Trainings:
    """Trainings of networks that stop at any step, are evaluated on the search images, and go on later.

    Attributes:
        folder: Folder of their progress.
        images: The images.
        config: The recipe; ``retrain`` is the training.
        steps: Steps of the whole schedule.
        seed: Seed of all trainings.
        initial: Returns the weights to start from; None: random ones.
    """

    folder: Path
    images: Images
    config: Config
    steps: int
    seed: int
    initial: Callable[[SubnetSpec], dict[str, Tensor]] | None = None

    def accuracy(self, spec: SubnetSpec, step: int) -> float:
        """Return the accuracy of a network on the search images after ``step`` steps."""
        path = self.folder / hashlib.sha256(spec.key().encode()).hexdigest()[:16]
        known = path.with_suffix(".json")
        curve: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
        if str(step) not in curve:
            trainer = net_trainer(spec, self.config, self.steps, self.seed)
            if self.initial is not None:
                trainer.model.load_state_dict(self.initial(spec))
            progress = Saved(path.with_suffix(".pt"), trainer)
            assert trainer.step <= step, "rungs are evaluated in increasing order"
            progress.run(self.images, self.seed, step)
            progress.save()
            curve[str(step)] = evaluate(trainer.model, self.images, self.images.search)["accuracy"]
            known.write_text(json.dumps(curve))
        return curve[str(step)]

    def seconds(self) -> float:
        """Return the CPU seconds of all trainings."""
        return sum(torch.load(path)["seconds"] for path in self.folder.glob("*.pt"))


def halve(specs: Sequence[SubnetSpec], rungs: Sequence[Rung], accuracy: Accuracy) -> list[dict[str, Any]]:
    """Return the networks, best first, each with its accuracy after each rung (``curve``)."""
    rows = [{"spec": spec, "curve": dict[int, float]()} for spec in specs]
    alive = rows
    for rung in rungs:
        alive = alive[: rung.nets]
        for row in alive:
            row["curve"][rung.steps] = accuracy(row["spec"], rung.steps)
        alive = sorted(alive, key=lambda row: -row["curve"][rung.steps])
    return sorted(rows, key=lambda row: (-len(row["curve"]), -list(row["curve"].values())[-1]))
