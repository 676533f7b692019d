"""The digits of the quickstart as tensors, by way of the product's DALI path.

3,000 images to train on, as some augmented views of each that training goes through in turn; 1,000 held out of train,
on which supernets are scored; 1,000 of val, which tell what a net is worth once it is trained.
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
    """Normalised images with their labels: ``views [V, n, 3, H, W]`` and ``labels [n]`` to train on, and two sets."""

    views: Tensor
    labels: Tensor
    search: Labelled
    val: Labelled

    def batch(self, step: int, seed: int) -> Labelled:
        """Images and labels of a step: all images once an epoch, each epoch another view of them."""
        epoch, place = divmod(step, len(self.labels) // BATCH)
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(10_000 * seed + epoch))
        ids = order[place * BATCH : (place + 1) * BATCH]
        return self.views[(epoch + seed) % len(self.views), ids], self.labels[ids]


def read(root: Path, views: int) -> Images:
    """The digits of ``root`` (launch/make_digits.py); the same tensors each time."""
    data = Data(search_per_class=100, resize=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), threads=1)
    train, search = hold_out(read_folder(root / "train"), data.search_per_class, SEED)
    batches = loader.train_batches(train, data, AUGMENT, SIDE, BATCH, SEED, 0, ALONE)
    pool = torch.empty(views, len(train), 3, SIDE, SIDE)
    for step in range(views * len(train) // BATCH):
        batch = next(batches)
        pool[step * BATCH // len(train), batch.ids] = batch.images

    def whole(images: object) -> Labelled:
        pixels = loader.decode_all(images, data, SIDE, ALONE)
        return loader.normalise(pixels, data), torch.from_numpy(images.labels)

    return Images(pool, torch.from_numpy(train.labels), whole(search), whole(read_folder(root / "val")))
