"""Random images instead of files (``data.synthetic``), to measure everything except loading."""
# n images, P images of the pool, B batch, H and W height and width in pixels

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Config
from vitas_ds.data.normalize import normalize_pixels
from vitas_ds.data.processing import Recipe
from vitas_ds.data.sources import ImageSet

POOL = 61  # different images; image i shows number i % POOL. A prime: each class shows all of them
TRAIN_PER_CLASS, VAL_PER_CLASS = 100, 10


def training_images(config: Config) -> ImageSet:
    """Return random training images, search images included: at least one batch besides those."""
    batch_size, num_classes = max(config.supernet.batch_size, config.retrain.batch_size), config.space.num_classes
    per_class = max(TRAIN_PER_CLASS, math.ceil(batch_size / num_classes))
    return _image_set("train", num_classes, config.data.search_per_class + per_class, config.run.seed)


def validation_images(config: Config) -> ImageSet:
    """Return random validation images."""
    return _image_set("val", config.space.num_classes, VAL_PER_CLASS, config.run.seed)


def _image_set(split: str, num_classes: int, per_class: int, seed: int) -> ImageSet:
    classes = tuple(f"class-{label:05}" for label in range(num_classes))
    paths = tuple(f"{name}/{split}-{i}" for name in classes for i in range(per_class))
    return ImageSet("synthetic", paths, np.repeat(np.arange(num_classes), per_class), classes, seed=seed)


def pixels(images: ImageSet, ids: np.ndarray, recipe: Recipe, device: torch.device) -> Tensor:
    """Return the images ``ids`` [B]: uint8 or normalized [B, 3, H, W], a function of seed and id."""
    assert images.seed is not None
    pool = _pool(images.seed, recipe, device)
    chosen = torch.from_numpy(ids % POOL)
    if device.type == "cuda":
        chosen = chosen.pin_memory()  # without this, the copy can wait for the device
    return pool[chosen.to(device, non_blocking=True)]


@lru_cache(maxsize=4)
def _pool(seed: int, recipe: Recipe, device: torch.device) -> Tensor:
    """Return [P, 3, H, W] on the device; the same numbers on all devices."""
    shape = (POOL, 3, recipe.image_size, recipe.image_size)
    with torch.inference_mode(False):
        pool = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)).to(device)
        return pool if recipe.uint8 else normalize_pixels(pool, recipe.mean, recipe.std)
