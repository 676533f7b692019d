"""The digits of the quickstart as tensors, loaded by the DALI pipelines of the product.

There are 3,000 training images with several augmented views each, which training uses in turn; 1,000 search images held
out of train, which score the supernets; and 1,000 images of val, which evaluate the subnets trained alone.
"""
# n images, V views

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.distributed.comm import Ranks

SIDE, BATCH, SEED = 28, 60, 0  # a batch divides the 3,000 images
ALONE = Ranks(0, 1, 0, torch.device("cpu"))
AUGMENT = Augment(scale=(0.6, 1.0), ratio=(0.85, 1.18), hflip=0.0, random_erasing=0.0)
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """Normalized images: ``views [V, n, 3, H, W]`` and ``labels [n]`` for training, and the search and val images."""

    views: Tensor
    labels: Tensor
    search: Labelled
    val: Labelled

    def batch(self, step: int, seed: int) -> Labelled:
        """Return images and labels of a step: every image once per epoch, with another view in each epoch."""
        epoch, place = divmod(step, len(self.labels) // BATCH)
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(10_000 * seed + epoch))
        ids = order[place * BATCH : (place + 1) * BATCH]
        return self.views[(epoch + seed) % len(self.views), ids], self.labels[ids]


def read(root: Path, views: int) -> Images:
    """Read the digits of ``root`` (launch/make_digits.py). Returns the same tensors every time."""
    data = Data(search_per_class=100, resize=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), threads=1)
    train, search = hold_out(read_folder(root / "train"), data.search_per_class, SEED)
    batches = loader.train_batches(train, data, AUGMENT, SIDE, BATCH, SEED, 0, ALONE)
    pool = torch.empty(views, len(train), 3, SIDE, SIDE)
    for step in range(views * len(train) // BATCH):
        batch = next(batches)
        pool[step * BATCH // len(train), batch.ids] = batch.images

    def whole(images: object) -> Labelled:
        pixels = loader.decode_all(images, data, SIDE, ALONE)
        return loader.normalize(pixels, data), torch.from_numpy(images.labels)

    return Images(pool, torch.from_numpy(train.labels), whole(search), whole(read_folder(root / "val")))
