"""The images of the study: equal ones for all seeds, as folders of links.

The product draws the search images with ``run.seed``. The start network learned the training images, so the search
images must not depend on the seed. The links of a seed have names that put the same search images at the places that
the product draws.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from vitas_ds.data.sources import ImageSet, read_folder, search_mask
from vitas_ds.errors import UserError

SPLIT = 0xE1A  # tag of the random stream of the split


def split(images: ImageSet, train: int, search: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw ``train`` and ``search`` images of each class. Return their indices, one array for each class."""
    drawn = []
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) < train + search:
            raise UserError(f"data.train: {name} has {len(members)} images, the study needs {train + search} per class")
        drawn.append(np.random.default_rng([SPLIT, label]).permutation(members)[: train + search])
    return [ids[:train] for ids in drawn], [ids[train:] for ids in drawn]


def link_training(source: str, folder: Path, train: int, search: int, seed: int) -> Path:
    """Write the links to the training and search images of a seed, unless they exist. Return the folder."""
    images = read_folder(source)
    parts = split(images, train, search)
    count, classes = train + search, len(images.classes)
    paths = tuple(f"{name}/{i:05}" for name in images.classes for i in range(count))
    blank = ImageSet(str(folder), paths, np.repeat(np.arange(classes), count), images.classes)
    held_out = search_mask(blank, search, seed).reshape(classes, count)
    chosen = np.empty((classes, count), np.int64)
    chosen[~held_out], chosen[held_out] = np.concatenate(parts[0]), np.concatenate(parts[1])
    return _link(images, folder, chosen)


def link_test(source: str, folder: Path, count: int) -> Path:
    """Write the links to the first ``count`` test images of each class, unless they exist. Return the folder."""
    images = read_folder(source)
    return _link(images, folder, np.stack([np.flatnonzero(images.labels == i)[:count] for i in range(10)]))


def _link(images: ImageSet, folder: Path, chosen: np.ndarray) -> Path:
    """Link the images [classes, n] in this order. A killed job leaves no incomplete folder."""
    if folder.exists():
        return folder
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    for name, row in zip(images.classes, chosen, strict=True):
        (aside / name).mkdir(parents=True)
        for i, index in enumerate(row):
            file = images.file(index)
            os.symlink(os.path.abspath(file), aside / name / f"{i:05}{Path(file).suffix}")
    aside.rename(folder)
    return folder
