"""Helpers of the data tests: crops of real photographs, ranks without a process group, the first batches."""

import itertools

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vitas_ds.distributed.comm import Ranks

SIZES = [(500, 375), (375, 500), (333, 501), (640, 427), (97, 113), (300, 300), (257, 1000), (64, 48)]


def cpu_rank(rank: int = 0, world_size: int = 1) -> Ranks:
    """Return rank ``rank`` of a job on the CPU."""
    return Ranks(rank, world_size, rank, torch.device("cpu"))


def photo_crop(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a random crop of a real photograph, resized to ``width`` x ``height``."""
    photos = load_sample_images().images
    photo = Image.fromarray(photos[rng.integers(len(photos))])
    left, top = rng.integers(0, 200), rng.integers(0, 150)
    return photo.crop((left, top, left + 400, top + 270)).resize((width, height), Image.Resampling.LANCZOS)


def take(batches, count):
    """Return the first ``count`` batches as (images, labels, ids) and close the pipeline."""
    taken = [(b.images, b.labels, b.ids) for b in itertools.islice(batches, count)]
    batches.close()
    return taken
