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
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.training.losses import cross_entropy
from vitas_ds.training.plain import PlainTrainer

SAVE_SECONDS = 60


def train_net(spec: SubnetSpec, images: Images, config: Config, steps: int, seed: int, saved: Path) -> dict[str, Any]:
    """Train a subnet alone, with progress in the file ``saved``. Returns its results on the validation images."""
    net = VisionTransformer(spec, class_token_only=True)
    init_weights(net, seed, config.retrain.init_std)

    def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        yield cross_entropy(net(x)[None], targets, "loss_mean")

    trainer = PlainTrainer(net, config.retrain, steps, losses, spec.num_classes, seed, config.engine.precision)
    seconds = run_saved(trainer, images, seed, saved)
    found = evaluate(net, images, images.val)
    return {
        "macs": spec_macs(spec), "steps": steps, "precision": config.engine.precision, **found,
        "train_loss": trainer.loss.item(), "training_seconds": round(seconds, 1),
    }  # fmt: skip


def run_saved(trainer: PlainTrainer, images: Images, seed: int, saved: Path, extra: Any = None) -> float:
    """Train to the end, resume from ``saved`` if it exists, and save every minute. Returns the CPU seconds."""
    before = 0.0
    if saved.exists():
        state = torch.load(saved)
        trainer.load_state_dict(state["trainer"])
        before = state["seconds"]
    clock, last = time.thread_time(), time.monotonic()
    batches = images.batches(trainer.training.batch_size, seed, trainer.step)
    while trainer.step < trainer.steps:
        trainer.run(batches, min(trainer.steps, trainer.step + 20))
        if time.monotonic() - last > SAVE_SECONDS:
            last = time.monotonic()
            saved.parent.mkdir(parents=True, exist_ok=True)
            aside = saved.with_suffix(".partial")
            torch.save({"trainer": trainer.state_dict(), "seconds": before + time.thread_time() - clock}, aside)
            aside.rename(saved)
    return before + time.thread_time() - clock


@torch.inference_mode()
def evaluate(net: nn.Module, images: Images, labelled: Labelled, batch_size: int = 500) -> dict[str, float]:
    """Return the accuracy and the loss of a network on images."""
    net.eval()
    pixels, labels = labelled
    logits = torch.cat([net(images.normalized(part)) for part in pixels.split(batch_size)])
    accuracy = (logits.argmax(-1) == labels).double().mean().item()
    return {"accuracy": accuracy, "loss": F.cross_entropy(logits, labels).item()}
