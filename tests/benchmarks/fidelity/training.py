"""Trainings of the study: subnets alone, with the product's plain trainer. A killed training resumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.fidelity.images import Images, Labelled
from tests.benchmarks.fidelity.record import pack
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.training.losses import cross_entropy, loss_with_teacher
from vitas_ds.training.plain import PlainTrainer
from vitas_ds.training.teacher import TeacherNetwork

SAVE_SECONDS = 60
CURVE = (1 / 8, 1 / 4, 1 / 2, 1)  # shares of a training after which the network is evaluated on the search images


def train_net(spec: SubnetSpec, images: Images, config: Config, steps: int, seed: int, saved: Path) -> dict[str, Any]:
    """Train a subnet alone, with progress in the file ``saved``. Returns its results on the validation images.

    ``curve`` in the result has the results on the search images, by step.
    """
    trainer = net_trainer(spec, config, steps, seed)
    net = trainer.model
    progress = Saved(saved, trainer)
    for share in CURVE:
        step = round(share * steps)
        progress.run(images, seed, step)
        if str(step) not in progress.results:
            found = evaluate(net, images, images.search)
            progress.results[str(step)] = {key: found[key] for key in ("accuracy", "loss")}
    found = evaluate(net, images, images.val)
    return {
        "macs": spec_macs(spec), "steps": steps, "precision": config.engine.precision, **found,
        "curve": progress.results, "train_loss": trainer.loss.item(), "training_seconds": round(progress.seconds, 1),
    }  # fmt: skip


def net_trainer(
    spec: SubnetSpec, config: Config, steps: int, seed: int, teacher: nn.Module | None = None
) -> PlainTrainer:
    """Return the training of a subnet alone, as the stage retrain does it; ``retrain.teacher`` belongs to a teacher."""
    net = VisionTransformer(spec, class_token_only=True)
    init_weights(net, seed, config.retrain.init_std)
    frozen = None if teacher is None else TeacherNetwork(teacher.eval(), "", config.engine.precision)

    def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        logits = net(x)[None]
        if frozen is None:
            yield cross_entropy(logits, targets, "loss_mean")
        else:
            yield loss_with_teacher(logits, targets, frozen(x), "loss_mean", config.retrain.teacher)

    return PlainTrainer(net, config.retrain, steps, losses, spec.num_classes, seed, config.engine.precision)


class Saved:
    """Progress of a training on disk. A killed training goes on from its last minute.

    Args:
        path: File of the progress; deleted by the caller at the end.

    Attributes:
        seconds: CPU seconds of the training so far.
        results: Further results so far, JSON.
    """

    def __init__(self, path: Path, trainer: PlainTrainer) -> None:
        self.path, self.trainer, self.seconds, self.results = path, trainer, 0.0, dict[str, Any]()
        if path.exists():
            state = torch.load(path)
            trainer.load_state_dict(state["trainer"])
            self.seconds, self.results = state["seconds"], state["results"]

    def save(self) -> None:
        """Write the progress, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        torch.save({"trainer": self.trainer.state_dict(), "seconds": self.seconds, "results": self.results}, aside)
        aside.rename(self.path)

    def run(self, images: Images, seed: int, until: int | None = None) -> None:
        """Train to a step (None: to the end)."""
        trainer = self.trainer
        stop, last = trainer.steps if until is None else until, time.monotonic()
        batches = images.batches(trainer.training.batch_size, seed, trainer.step)
        while trainer.step < stop:
            clock = time.thread_time()
            trainer.run(batches, min(stop, trainer.step + 20))
            self.seconds += time.thread_time() - clock
            if time.monotonic() - last > SAVE_SECONDS:
                last = time.monotonic()
                self.save()


@torch.inference_mode()
def evaluate(net: nn.Module, images: Images, labelled: Labelled, batch_size: int = 500) -> dict[str, Any]:
    """Return the accuracy and the loss of a network on images, and which ones it classifies correctly (packed)."""
    net.eval()
    pixels, labels = labelled
    logits = torch.cat([net(images.normalized(part)) for part in pixels.split(batch_size)])
    correct = logits.argmax(-1) == labels
    return {
        "accuracy": correct.double().mean().item(), "loss": F.cross_entropy(logits, labels).item(),
        "correct": pack(correct.numpy()),
    }  # fmt: skip
