"""Accuracy on held-out images while one network is trained.

The averaged weights are measured if there are any, because they are exported. All ranks compute together, as many
batches each, because ZeRO 3 gathers the weights for each forward pass. Training is not affected: nothing here draws
random numbers or leaves gradients.
"""
# n images, B batch, C classes

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitas_ds.config import Data
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import preemption, watchdog
from vitas_ds.distributed.comm import Ranks, all_sum
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import Preempted
from vitas_ds.models.hits import top_hits
from vitas_ds.training.task import Evaluation

# Share of the MACs of the training, unless eval_every is set. Large networks take more time per MAC: on CIFAR-10, 2.5 %
# of the MACs are 2.8 % of the time of the steps, without the loading of images.
SHARE = 0.025
# Steps that an evaluation costs in addition to its MACs, which matter in short trainings of small networks: launching
# the operators, swapping the averaged weights, and the checkpoint of the best network so far. On the quickstart, 100
# images and a checkpoint take 0.8 steps of 64 images; MACs alone would be 0.5 steps.
OVERHEAD = 0.5
FEWEST, MOST = 10, 60  # evaluations: rather fewer images than fewer evaluations, and no more than a curve needs
MIN_IMAGES = 50  # fewer say nothing
BACKWARD = 2  # MACs of a backward pass, relative to the forward pass
TOP1 = "top1"


@dataclass(frozen=True)
class Schedule:
    """When to evaluate, and on how many images.

    Attributes:
        every: Steps between evaluations.
        images: Number of images.
        share: Computation relative to that of the training, with ``OVERHEAD``.
    """

    every: int
    images: int
    share: float


def schedule(
    eval_every: float | None, steps: tuple[int, int], trained: float, available: int, overhead: float = OVERHEAD
) -> Schedule | None:
    """Return the schedule of ``eval_every``; None for no evaluation.

    Args:
        eval_every: Epochs, 0 for none; None for as many evaluations as cost ``SHARE``.
        steps: Steps per epoch and in total.
        trained: Computation of the whole training, in evaluations of one image.
        available: Number of images.
        overhead: Steps that an evaluation costs in addition to its images.
    """
    per_epoch, total = steps
    fixed = overhead * trained / total
    if eval_every is not None:
        if not eval_every:
            return None
        images, every = available, max(1, round(eval_every * per_epoch))
    else:
        affordable = SHARE * trained
        images = min(available, max(MIN_IMAGES, int(affordable / FEWEST - fixed)))
        count = min(MOST, int(affordable / (images + fixed)))
        if not count:
            return None
        every = math.ceil(total / count)
    return Schedule(every, images, math.ceil(total / every) * (images + fixed) / trained)


@dataclass(frozen=True)
class Share:
    """Images of this rank, as many as on each other rank.

    Attributes:
        data: Normalization and batch size.
        device: Device of the network.
        pixels: uint8 [n, 3, H, W].
        labels: int64 [n].
        own: Number of images that count; the others only keep the ranks in step.
        total: Number of images of all ranks.
    """

    data: Data
    device: torch.device
    pixels: Tensor
    labels: Tensor
    own: int
    total: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield normalized images [B, 3, H, W], labels [B], and the number of images that count from the first one on.

        The number may be larger than B.
        """
        for first in range(0, len(self.labels), self.data.eval_batch_size):
            watchdog.at()
            rows = slice(first, first + self.data.eval_batch_size)
            pixels, labels = (values[rows].to(self.device) for values in (self.pixels, self.labels))
            yield normalize(pixels, self.data), labels, max(self.own - first, 0)


def decode_share(
    images: ImageSet, order: np.ndarray, data: Data, image_size: int, ranks: Ranks, fewer: tuple[str, str]
) -> Share:
    """Decode this rank's share of the images with the indices ``order`` (``fewer`` as for ``decode_all``).

    All ranks must call this.
    """
    own, count = order[ranks.rank :: ranks.world_size], -(-len(order) // ranks.world_size)
    padded = images.subset(np.concatenate([own, order[: count - len(own)]]))
    pixels = decode_all(padded, data, image_size, ranks, fewer=fewer)
    return Share(data, ranks.device, pixels, torch.from_numpy(padded.labels), len(own), len(order))


def sum_counts(counts: Tensor) -> list[int]:
    """Return the sums of int64 counts [k] over the ranks.

    Raises:
        Preempted: On all ranks: one of them has a stop request.
    """
    *sums, stop = all_sum(torch.cat([counts, counts.new_tensor([preemption.requested()])])).tolist()
    if stop:
        raise Preempted("stopped in an evaluation")
    return sums


@contextmanager
def evaluating(model: nn.Module, compiled: str, plain: object) -> Iterator[None]:
    """Put a network into evaluation mode, with ``plain`` in place of its attribute ``compiled``.

    A function compiled for training would be compiled again without gradients.
    """
    training, function = model.training, getattr(model, compiled, None)
    model.eval()
    setattr(model, compiled, plain)
    try:
        yield
    finally:
        model.train(training)
        setattr(model, compiled, function)


@dataclass(frozen=True)
class Accuracy:
    """Measures the accuracy of the network of an engine. All ranks call it together.

    Attributes:
        share: Images of this rank.
        averaged: Whether the weights are averaged ones.
    """

    share: Share
    averaged: bool

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Return the top-1 and top-5 accuracy, named as metrics.

        Raises:
            Preempted: On all ranks: one of them has a stop request.
        """
        hits = torch.zeros(2, dtype=torch.int64, device=self.share.device)
        with engine.averaged(), evaluating(engine.model, "_compiled_call_impl", None), torch.no_grad():
            for images, labels, own in self.share.batches():
                logits = engine(images)
                right = top_hits(logits, labels, 5)[:own]
                hits += torch.stack([right[:, 0].sum(), right.sum()])
        top1, top5 = sum_counts(hits)
        return {TOP1: top1 / self.share.total, "top5": top5 / self.share.total}

    def describe(self, values: dict[str, float]) -> str:
        """Format the result for the console."""
        weights = " of the averaged weights" if self.averaged else ""
        return f"top-1 accuracy{weights} {values[TOP1]:.1%} on {self.share.total:,} held-out images"


def measure_accuracy(
    images: ImageSet, data: Data, image_size: int, ranks: Ranks, every: int, averaged: bool
) -> Evaluation:
    """Decode this rank's share of the images, and return the evaluation.

    Args:
        images: Images to classify.
        data: Preprocessing.
        image_size: Side of the images in pixels.
        ranks: The ranks.
        every: Steps between two evaluations.
        averaged: Whether the weights are averaged ones.
    """
    fewer = "held-out images", "lower retrain.eval_images"
    share = decode_share(images, np.arange(len(images)), data, image_size, ranks, fewer)
    accuracy = Accuracy(share, averaged)
    return Evaluation(every, accuracy, accuracy.describe, score=TOP1)
