"""The images of a study as tensors, loaded by the DALI pipelines of the product.

Training images have several augmented views, which training uses in turn. Pixels stay uint8 in one file that all
processes map into their memory.
"""
# n images, V views, B batch

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.fidelity.study import Study
from vitas_ds.config import Data
from vitas_ds.data import loader
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed.comm import Ranks

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
DECODED = 250  # most images in a batch of the loader
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """Pixels and labels of the three parts.

    Attributes:
        views: Augmented training images, uint8 [V, n, 3, H, W].
        labels: [n].
        search: Search images, uint8 [n, 3, H, W], and labels [n].
        val: The same of the validation images.
        data: Mean and standard deviation.
    """

    views: Tensor
    labels: Tensor
    search: Labelled
    val: Labelled
    data: Data

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Labelled]:
        """Yield normalized training batches from step ``start`` on, without end.

        An epoch shows each image once. Each epoch has a new order and another view.
        """
        per_epoch, step = len(self.labels) // batch_size, start
        order, of_epoch = torch.empty(0), -1
        while True:
            epoch, place = divmod(step, per_epoch)
            if epoch != of_epoch:
                generator, of_epoch = torch.Generator().manual_seed(10_000 * seed + epoch), epoch
                order = torch.randperm(len(self.labels), generator=generator)
            ids = order[place * batch_size : (place + 1) * batch_size]
            yield self.normalized(self.views[(epoch + 7 * seed) % len(self.views)][ids]), self.labels[ids]
            step += 1

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels as the network's input."""
        return loader.normalize(pixels, self.data)


def write(study: Study, path: Path) -> None:
    """Decode and augment the images of a study into a file, atomically."""
    config, (train, search, val) = study.config, study.images
    data, side, augment = config.data, config.space.image_size, config.retrain.augment
    size = max(size for size in range(1, DECODED + 1) if len(train) % size == 0)  # each epoch shows every image
    plain = data.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    batches = loader.train_batches(train, plain, augment, side, size, config.run.seed, 0, ALONE)
    views = torch.empty(study.size.views, len(train), 3, side, side, dtype=torch.uint8)
    for view in range(study.size.views):
        for _ in range(len(train) // size):
            batch = next(batches)
            views[view, batch.ids] = (batch.images * 255).round().to(torch.uint8)

    def decoded(images: ImageSet) -> Labelled:
        return loader.decode_all(images, data, side, ALONE), torch.from_numpy(images.labels)

    parts = {"views": views, "labels": torch.from_numpy(train.labels), "search": decoded(search), "val": decoded(val)}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    torch.save(parts, aside)
    aside.rename(path)


def read(path: Path, data: Data) -> Images:
    """Map the images of a study into memory."""
    return Images(**torch.load(path, mmap=True), data=data)
